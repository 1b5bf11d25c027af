import { EventEmitter } from "node:events";

import { ConnectionState, RoomEvent, type LocalAudioTrack, type Room } from "livekit-client";
import { vi } from "vitest";

type Handler = (reader: AsyncIterable<string> & { info: object }, from: { identity: string }) => Promise<void>;

/** A room without a server: a test makes happen in it what LiveKit would. */
export class FakeRoom extends EventEmitter {
  readonly localParticipant = { identity: "caller-1", publishTrack: vi.fn(async () => undefined) };
  readonly remoteParticipants = new Map<string, object>();
  readonly startAudio = vi.fn(async () => undefined);
  canPlaybackAudio = true;
  #handler: Handler | undefined;

  readonly connect = vi.fn(async (_url: string, _token: string) => {
    this.emit(RoomEvent.ConnectionStateChanged, ConnectionState.Connected);
    this.emit(RoomEvent.Connected);
  });

  readonly disconnect = vi.fn(async () => {
    this.emit(RoomEvent.Disconnected, undefined);
  });

  registerTextStreamHandler(topic: string, handler: Handler): void {
    if (topic !== "lk.transcription") throw new Error(`nobody sends on ${topic}`);
    this.#handler = handler;
  }

  join(identity = "agent-1"): void {
    this.remoteParticipants.set(identity, {});
    this.emit(RoomEvent.ParticipantConnected, {});
  }

  leave(identity = "agent-1"): void {
    this.remoteParticipants.delete(identity);
    this.emit(RoomEvent.ParticipantDisconnected, {});
  }

  async say(pieces: string[], attributes: Record<string, string> = {}, identity = "agent-1"): Promise<void> {
    await this.#handler?.(stream(pieces, { id: "stream", attributes }), { identity });
  }

  get asRoom(): Room {
    return this as unknown as Room;
  }
}

function stream(pieces: string[], info: object): AsyncIterable<string> & { info: object } {
  return {
    info,
    async *[Symbol.asyncIterator]() {
      yield* pieces;
    },
  };
}

export class FakeMicrophone {
  readonly stop = vi.fn();
  readonly mute = vi.fn(async () => undefined);
  readonly unmute = vi.fn(async () => undefined);

  get asTrack(): LocalAudioTrack {
    return this as unknown as LocalAudioTrack;
  }
}

export const SESSION = { session_id: "s1", room: "va-s1", url: "ws://livekit", token: "t" };

export function json(body: unknown, status = 200, headers: Record<string, string> = {}): Response {
  return new Response(JSON.stringify(body), { status, headers });
}
