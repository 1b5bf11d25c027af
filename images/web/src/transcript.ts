/** The topic on which LiveKit agents send what is said, as text streams. */
export const TRANSCRIPT_TOPIC = "lk.transcription";

/** One thing that was said. A line that is not final may still be replaced by one with its id. */
export interface Line {
  readonly id: string;
  readonly speaker: "assistant" | "caller";
  readonly text: string;
  readonly final: boolean;
}

/** What identifies and completes a line: https://docs.livekit.io/agents/build/text/#text-streams */
export function lineOf(
  stream: { readonly id: string; readonly attributes?: Readonly<Record<string, string>> | undefined },
  speaker: Line["speaker"],
  text: string,
): Line {
  const attributes = stream.attributes ?? {};
  return {
    id: attributes["lk.segment_id"] ?? stream.id,
    speaker,
    text,
    final: attributes["lk.transcription_final"] !== "false",
  };
}

/** The lines with one more, or with that line's newer wording in its old place. */
export function withLine(lines: readonly Line[], line: Line): readonly Line[] {
  if (!line.text.trim()) return lines;
  const at = lines.findIndex((one) => one.id === line.id);
  if (at < 0) return [...lines, line];
  // Streams may overtake each other: what is final stays.
  return lines[at]?.final && !line.final ? lines : lines.with(at, line);
}
