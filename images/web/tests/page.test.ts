import { readFile } from "node:fs/promises";

import { beforeEach, describe, expect, it, vi } from "vitest";

import { FakeMicrophone, FakeRoom, SESSION, json } from "./room";

const rooms: FakeRoom[] = [];
vi.mock("livekit-client", async (original) => ({
  ...(await original<typeof import("livekit-client")>()),
  Room: function () {
    rooms.push(new FakeRoom());
    return rooms.at(-1);
  },
  createLocalAudioTrack: async () => new FakeMicrophone(),
}));
const { open } = await import("../src/page");

const byId = (id: string): HTMLElement => document.getElementById(id) as HTMLElement;
const answers = async (url: unknown, init?: RequestInit): Promise<Response> => {
  if (url === "/config.json") return json({ api: "", release: "20261124-1", track: "canary" });
  return init?.method === "DELETE" ? new Response(null, { status: 204 }) : json(SESSION, 201);
};
const status = (): string | null => byId("status").textContent;

beforeEach(async () => {
  const html = await readFile("src/index.html", "utf8");
  document.body.innerHTML = /<body>(.*?)<script/s.exec(html)?.[1] ?? "";
  rooms.length = 0;
  vi.stubGlobal("navigator", { mediaDevices: {} });
});

describe("the page", () => {
  it("is ready once it knows its configuration", async () => {
    expect((byId("call") as HTMLButtonElement).disabled).toBe(true);
    await open(answers as never);
    expect((byId("call") as HTMLButtonElement).disabled).toBe(false);
    expect(status()).toBe("Ready to call");
    expect(byId("about").textContent).toBe("Release 20261124-1 (canary)");
    for (const id of ["mute", "sound", "error"]) expect(byId(id).hidden).toBe(true);
  });

  it("shows a call from its start to its end", async () => {
    await open(answers as never);
    byId("call").click();
    await vi.waitFor(() => expect(status()).toBe("Connected: waiting for the assistant…"));
    expect(byId("call").textContent).toBe("End call");
    const room = rooms[0]!;
    room.join();
    expect(status()).toBe("Connected: the assistant is listening");
    await room.say(["I heard you <b>well</b>."], { "lk.segment_id": "a" });
    const [item] = byId("lines").children;
    expect(item?.children[0]?.textContent).toBe("Assistant");
    expect(item?.children[1]?.textContent).toBe("I heard you <b>well</b>.");
    expect(byId("empty").hidden).toBe(true);

    byId("mute").click();
    await vi.waitFor(() => expect(byId("mute").ariaPressed).toBe("true"));
    expect(byId("mute").textContent).toBe("Unmute");

    room.canPlaybackAudio = false;
    room.emit("audioPlaybackChanged");
    expect(byId("sound").hidden).toBe(false);
    byId("sound").click();
    expect(room.startAudio).toHaveBeenCalled();

    byId("call").click();
    expect(status()).toBe("Call ended");
    expect(byId("call").textContent).toBe("Start call");
    expect(byId("lines").children).toHaveLength(1);
  });

  it("hangs up when it is closed", async () => {
    const fetch = vi.fn(answers);
    await open(fetch as never);
    byId("call").click();
    await vi.waitFor(() => expect(status()).toContain("Connected"));
    window.dispatchEvent(new Event("pagehide"));
    expect(rooms[0]?.disconnect).toHaveBeenCalled();
    expect(fetch.mock.calls.at(-1)).toEqual(["/v1/sessions/s1", { method: "DELETE", keepalive: true }]);
  });

  it("shows why a call failed, and lets it be tried again", async () => {
    let down = true;
    await open((async (url: unknown, init?: RequestInit) =>
      down && init?.method === "POST" ? json({}, 503) : answers(url, init)) as never);
    byId("call").click();
    await vi.waitFor(() => expect(status()).toBe("Call failed"));
    expect(byId("error").hidden).toBe(false);
    expect(byId("error").textContent).toContain("takes no calls at the moment");
    down = false;
    byId("call").click();
    await vi.waitFor(() => expect(status()).toContain("Connected"));
    expect(byId("error").hidden).toBe(true);
  });

  it("says so when it cannot work at all", async () => {
    await open((async () => json({}, 500)) as never);
    expect(byId("error").textContent).toContain("Reload it");
    vi.stubGlobal("navigator", {});
    await open(answers as never);
    expect(byId("error").textContent).toContain("https");
    expect((byId("call") as HTMLButtonElement).disabled).toBe(true);
  });
});
