/** The api's sessions: what a caller needs to join a room. */
export interface Session {
  readonly id: string;
  readonly url: string;
  readonly token: string;
}

/** The api said no, or nothing; the message is for people. */
export class SessionRefused extends Error {}

const TIMEOUT_MS = 15_000;

/** Create a session (POST /v1/sessions). Throws SessionRefused. */
export async function createSession(api: string, fetch: typeof globalThis.fetch): Promise<Session> {
  let answer: Response;
  try {
    answer = await fetch(`${api}/v1/sessions`, { method: "POST", signal: AbortSignal.timeout(TIMEOUT_MS) });
  } catch {
    throw new SessionRefused("The assistant cannot be reached. Check your connection and try again.");
  }
  if (answer.status === 429) {
    const seconds = Number(answer.headers.get("retry-after") ?? 0);
    const when = seconds > 0 ? `in ${seconds} second${seconds === 1 ? "" : "s"}` : "in a moment";
    throw new SessionRefused(`Too many calls were started from here. Try again ${when}.`);
  }
  if (!answer.ok) {
    throw new SessionRefused(`The assistant takes no calls at the moment (${answer.status}). Try again soon.`);
  }
  const made = (await answer.json().catch(() => ({}))) as Record<string, unknown>;
  const { session_id: id, url, token } = made;
  if (typeof id !== "string" || typeof url !== "string" || typeof token !== "string") {
    throw new SessionRefused("The assistant answered something that this page does not understand.");
  }
  return { id, url, token };
}

/** End a session: its room is closed. Best effort: it may be over already, and the page may be going away. */
export async function endSession(api: string, id: string, fetch: typeof globalThis.fetch): Promise<void> {
  await fetch(`${api}/v1/sessions/${encodeURIComponent(id)}`, { method: "DELETE", keepalive: true }).catch(
    () => undefined,
  );
}
