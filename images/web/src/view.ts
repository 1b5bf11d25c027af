import type { CallState, Phase } from "./call";
import type { Line } from "./transcript";

const STATUS: Record<Phase, string> = {
  idle: "Ready to call",
  preparing: "Getting ready…",
  connecting: "Connecting…",
  connected: "Connected",
  reconnecting: "Connection lost, reconnecting…",
  ended: "Call ended",
  failed: "Call failed",
};

/** The page's parts, by the id that each has in index.html. */
export class View {
  readonly call = part("call", HTMLButtonElement);
  readonly mute = part("mute", HTMLButtonElement);
  readonly sound = part("sound", HTMLButtonElement);
  readonly audio = part("audio", HTMLElement);
  readonly #orb = part("orb", HTMLElement);
  readonly #status = part("status", HTMLElement);
  readonly #error = part("error", HTMLElement);
  readonly #empty = part("empty", HTMLElement);
  readonly #lines = part("lines", HTMLElement);
  readonly #about = part("about", HTMLElement);

  /** Show a state; only what differs is touched, so that screen readers say it once. */
  show(state: CallState): void {
    const active = !["idle", "ended", "failed"].includes(state.phase);
    const live = state.phase === "connected" || state.phase === "reconnecting";
    text(this.#status, status(state));
    this.#status.dataset["phase"] = this.#orb.dataset["phase"] = state.phase;
    this.#orb.dataset["speaking"] = String(state.speaking);
    text(this.#error, state.problem);
    this.#error.hidden = !state.problem;
    this.call.disabled = false;
    text(this.call, active ? "End call" : "Start call");
    this.mute.hidden = !live;
    text(this.mute, state.muted ? "Unmute" : "Mute");
    this.mute.ariaPressed = String(state.muted);
    this.sound.hidden = !(live && state.silenced);
    this.#empty.hidden = state.lines.length > 0;
    this.#write(state.lines);
  }

  /** Something that is wrong with the page itself. */
  broken(problem: string): void {
    text(this.#status, "Not available");
    text(this.#error, problem);
    this.#error.hidden = false;
  }

  about(words: string): void {
    text(this.#about, words);
  }

  #write(lines: readonly Line[]): void {
    while (this.#lines.children.length > lines.length) this.#lines.lastElementChild?.remove();
    lines.forEach((line, at) => {
      const known = this.#lines.children[at] as HTMLElement | undefined;
      const item = known ?? document.createElement("li");
      if (!known) item.append(document.createElement("b"), document.createElement("span"));
      item.dataset["speaker"] = line.speaker;
      item.dataset["final"] = String(line.final);
      const [who, words] = [item.children[0], item.children[1]];
      if (who) text(who, line.speaker === "caller" ? "You" : "Assistant");
      if (words) text(words, line.text);
      if (!known) {
        this.#lines.append(item);
        item.scrollIntoView?.({ block: "nearest" });
      }
    });
  }
}

function status(state: CallState): string {
  if (state.phase !== "connected") return STATUS[state.phase];
  return state.assistant ? "Connected: the assistant is listening" : "Connected: waiting for the assistant…";
}

function text(element: Element, words: string): void {
  if (element.textContent !== words) element.textContent = words;
}

function part<T extends HTMLElement>(id: string, kind: new () => T): T {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`the page has no ${kind.name} #${id}`);
  return found;
}
