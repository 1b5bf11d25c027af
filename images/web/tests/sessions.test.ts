import { expect, it, vi } from "vitest";

import { readConfig } from "../src/config";
import { SessionRefused, createSession, endSession } from "../src/sessions";
import { SESSION, json } from "./room";

function answering(answer: Response | Error) {
  return vi.fn(async () => {
    if (answer instanceof Error) throw answer;
    return answer;
  });
}

it("creates a session by POST", async () => {
  const fetch = answering(json(SESSION, 201));
  expect(await createSession("", fetch)).toEqual({ id: "s1", url: "ws://livekit", token: "t" });
  expect(fetch).toHaveBeenCalledExactlyOnceWith("/v1/sessions", expect.objectContaining({ method: "POST" }));
});

it.each([
  ["no connection", new TypeError("Failed to fetch"), "cannot be reached"],
  ["too many", json({}, 429), "in a moment"],
  ["too many, with a time", json({}, 429, { "retry-after": "1" }), "in 1 second."],
  ["a server that is down", json({}, 503), "(503)"],
  ["an answer without a token", json({ session_id: "s", url: "ws://x" }, 201), "does not understand"],
  ["an answer that is no JSON", new Response("<html>", { status: 201 }), "does not understand"],
])("explains %s", async (_, answer, said) => {
  await expect(createSession("https://api.example", answering(answer))).rejects.toThrow(
    expect.objectContaining({ constructor: SessionRefused, message: expect.stringContaining(said) }),
  );
});

it("ends a session even while the page goes away, and minds no failure", async () => {
  const fetch = answering(new TypeError("gone"));
  await endSession("", "a/b", fetch);
  expect(fetch).toHaveBeenCalledExactlyOnceWith("/v1/sessions/a%2Fb", { method: "DELETE", keepalive: true });
});

it("reads the page's configuration", async () => {
  const config = { api: "https://api.example", release: "r1", track: "canary" };
  expect(await readConfig(answering(json({ ...config, more: 1 })))).toEqual(config);
  expect(await readConfig(answering(json({})))).toEqual({ api: "", release: "unknown", track: "" });
  await expect(readConfig(answering(json({}, 500)))).rejects.toThrow("500");
});
