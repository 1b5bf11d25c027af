import {
  ConnectionState,
  DisconnectReason,
  MediaDeviceFailure,
  RoomEvent,
  Track,
  type LocalAudioTrack,
  type RemoteTrack,
  type Room,
} from "livekit-client";

import { SessionRefused, createSession, endSession, type Session } from "./sessions";
import { TRANSCRIPT_TOPIC, lineOf, withLine, type Line } from "./transcript";

export type Phase = "idle" | "preparing" | "connecting" | "connected" | "reconnecting" | "ended" | "failed";

/** All that the page shows of a call. */
export interface CallState {
  readonly phase: Phase;
  /** Why the call failed or ended, for people; empty when there is nothing to say. */
  readonly problem: string;
  /** Whether the assistant is in the room, and whether it is heard now. */
  readonly assistant: boolean;
  readonly speaking: boolean;
  readonly muted: boolean;
  /** The browser plays no sound before the user says so. */
  readonly silenced: boolean;
  readonly lines: readonly Line[];
}

export const IDLE: CallState = {
  phase: "idle",
  problem: "",
  assistant: false,
  speaking: false,
  muted: false,
  silenced: false,
  lines: [],
};

/** What a call needs of the world; tests bring their own. */
export interface World {
  /** See `Config.api`. */
  readonly api: string;
  readonly fetch: typeof globalThis.fetch;
  newRoom(): Room;
  /** Ask for the microphone; throws what getUserMedia throws. */
  openMicrophone(): Promise<LocalAudioTrack>;
  /** Where the audio elements of the assistant's voice are put. */
  readonly speaker: Pick<HTMLElement, "append" | "replaceChildren">;
  /** Called with each new state. */
  show(state: CallState): void;
}

/** One call at a time: `start`, `end`, and what happens in between. */
export class Call {
  #state = IDLE;
  #room: Room | undefined;
  #session: Session | undefined;
  #microphone: LocalAudioTrack | undefined;

  constructor(private readonly world: World) {}

  get state(): CallState {
    return this.#state;
  }

  /** Whether a call is going on or being made. */
  get active(): boolean {
    return !["idle", "ended", "failed"].includes(this.#state.phase);
  }

  /** Make a call; what goes wrong is in the state. */
  async start(): Promise<void> {
    if (this.active) return;
    this.#set({ ...IDLE, phase: "preparing" });
    const room = this.world.newRoom();
    this.#room = room;
    try {
      // First, so that no session is made for someone who will not be heard.
      const microphone = await this.world.openMicrophone();
      if (this.#gaveUp(room, microphone)) return;
      this.#microphone = microphone;
      const session = await createSession(this.world.api, this.world.fetch);
      if (this.#gaveUp(room)) {
        await endSession(this.world.api, session.id, this.world.fetch);
        return;
      }
      this.#session = session;
      this.#listen(room);
      this.#set({ phase: "connecting" });
      await room.connect(session.url, session.token);
      await room.localParticipant.publishTrack(microphone, { source: Track.Source.Microphone });
    } catch (error) {
      if (room !== this.#room) return; // the user hung up meanwhile
      this.#close({ phase: "failed", problem: explain(error) });
    }
  }

  /** Hang up. */
  end(): void {
    if (this.active) this.#close({ phase: "ended" });
  }

  async toggleMute(): Promise<void> {
    const muted = !this.#state.muted;
    await (muted ? this.#microphone?.mute() : this.#microphone?.unmute());
    this.#set({ muted });
  }

  /** Play sound; to be called from a click, where browsers allow it. */
  async allowSound(): Promise<void> {
    await this.#room?.startAudio();
  }

  #listen(room: Room): void {
    const set = (change: Partial<CallState>): void => {
      if (room === this.#room) this.#set(change); // a room that was left still tells what it does
    };
    const here = (): void => set({ assistant: room.remoteParticipants.size > 0 });
    room.registerTextStreamHandler(TRANSCRIPT_TOPIC, async (reader, from) => {
      const speaker = from.identity === room.localParticipant.identity ? "caller" : "assistant";
      let text = "";
      const said = (final: boolean): void => {
        const line = lineOf(reader.info, speaker, text);
        set({ lines: withLine(this.#state.lines, { ...line, final: line.final && final }) });
      };
      for await (const piece of reader) {
        text += piece;
        said(false);
      }
      said(true);
    });
    room
      .on(RoomEvent.ConnectionStateChanged, (state) => {
        if (state === ConnectionState.Connected) set({ phase: "connected" });
        if (state === ConnectionState.Reconnecting || state === ConnectionState.SignalReconnecting) {
          set({ phase: "reconnecting" });
        }
      })
      .on(RoomEvent.Connected, here)
      .on(RoomEvent.ParticipantConnected, here)
      .on(RoomEvent.ParticipantDisconnected, here)
      .on(RoomEvent.TrackSubscribed, (track: RemoteTrack) => {
        if (track.kind === Track.Kind.Audio) this.world.speaker.append(track.attach());
      })
      .on(RoomEvent.TrackUnsubscribed, (track: RemoteTrack) => {
        for (const element of track.detach()) element.remove();
      })
      .on(RoomEvent.ActiveSpeakersChanged, (speakers) => {
        set({ speaking: speakers.some((one) => !one.isLocal) });
      })
      .on(RoomEvent.AudioPlaybackStatusChanged, () => set({ silenced: !room.canPlaybackAudio }))
      .on(RoomEvent.Disconnected, (reason) => {
        // While `connect` runs it is `start` that tells what went wrong.
        if (room === this.#room && this.#state.phase !== "connecting") this.#close(farewell(reason));
      });
  }

  /** Whether the user hung up while something was waited for; what was opened meanwhile is closed. */
  #gaveUp(room: Room, microphone?: LocalAudioTrack): boolean {
    if (room === this.#room) return false;
    microphone?.stop();
    return true;
  }

  #close(last: Pick<CallState, "phase"> & Partial<CallState>): void {
    const [room, session, microphone] = [this.#room, this.#session, this.#microphone];
    this.#room = this.#session = this.#microphone = undefined;
    this.#set({ problem: "", ...last, assistant: false, speaking: false, muted: false, silenced: false });
    microphone?.stop();
    this.world.speaker.replaceChildren();
    void room?.disconnect();
    if (session) void endSession(this.world.api, session.id, this.world.fetch);
  }

  #set(change: Partial<CallState>): void {
    this.#state = { ...this.#state, ...change };
    this.world.show(this.#state);
  }
}

/** What a call's end means, by LiveKit's reason. */
export function farewell(reason: DisconnectReason | undefined): Pick<CallState, "phase" | "problem"> {
  switch (reason) {
    case DisconnectReason.ROOM_DELETED:
    case DisconnectReason.ROOM_CLOSED:
      return { phase: "ended", problem: "" };
    case DisconnectReason.PARTICIPANT_REMOVED:
      return { phase: "ended", problem: "You were taken out of the call." };
    case DisconnectReason.SERVER_SHUTDOWN:
      return { phase: "failed", problem: "The server is being restarted. Please call again." };
    default:
      return { phase: "failed", problem: "The connection was lost. Please call again." };
  }
}

/** An error that ended a call, for people. */
export function explain(error: unknown): string {
  if (error instanceof SessionRefused) return error.message;
  switch (error instanceof Error ? MediaDeviceFailure.getFailure(error) : undefined) {
    case MediaDeviceFailure.PermissionDenied:
      return "The microphone may not be used. Allow it for this page in your browser, then call again.";
    case MediaDeviceFailure.NotFound:
      return "No microphone was found. Connect one, then call again.";
    case MediaDeviceFailure.DeviceInUse:
      return "The microphone is used by another program. Close that, then call again.";
    default:
      return "The call could not be connected. Check your connection and try again.";
  }
}
