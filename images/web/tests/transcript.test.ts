import { expect, it } from "vitest";

import { lineOf, withLine, type Line } from "../src/transcript";

const line = (id: string, text: string, final = true): Line => ({ id, speaker: "assistant", text, final });

it("adds lines in the order in which they began", () => {
  const lines = [line("a", "one"), line("b", "two")].reduce(withLine, [] as readonly Line[]);
  expect(lines.map((one) => one.text)).toEqual(["one", "two"]);
});

it("replaces a line by its newer wording, in its place", () => {
  const lines = [line("a", "o", false), line("b", "two"), line("a", "one")].reduce(withLine, [] as readonly Line[]);
  expect(lines.map((one) => one.text)).toEqual(["one", "two"]);
});

it("keeps what is final, and shows nothing empty", () => {
  const lines = [line("a", "one"), line("a", "on", false), line("b", " ")].reduce(withLine, [] as readonly Line[]);
  expect(lines).toEqual([line("a", "one")]);
});

it("knows a line by its segment, else by its stream", () => {
  expect(lineOf({ id: "s" }, "caller", "x")).toEqual({ id: "s", speaker: "caller", text: "x", final: true });
  const attributes = { "lk.segment_id": "g", "lk.transcription_final": "false" };
  expect(lineOf({ id: "s", attributes }, "assistant", "x")).toMatchObject({ id: "g", final: false });
});
