import { ConnectionState, DisconnectReason, RoomEvent, Track } from "livekit-client";
import { describe, expect, it, vi } from "vitest";

import { Call, explain, farewell, type CallState } from "../src/call";
import { SessionRefused } from "../src/sessions";
import { FakeMicrophone, FakeRoom, SESSION, json } from "./room";

function world(room = new FakeRoom()) {
  const shown: CallState[] = [];
  const microphone = new FakeMicrophone();
  const fetch = vi.fn(async (_url: string, init?: { method?: string }) =>
    init?.method === "DELETE" ? new Response(null, { status: 204 }) : json(SESSION, 201),
  );
  const openMicrophone = vi.fn(async () => microphone.asTrack);
  const speaker = { append: vi.fn(), replaceChildren: vi.fn() };
  const call = new Call({
    api: "https://api.example",
    fetch: fetch as never,
    newRoom: () => room.asRoom,
    openMicrophone,
    speaker,
    show: (state) => shown.push(state),
  });
  const phases = () => shown.map((one) => one.phase).filter((one, at, all) => one !== all[at - 1]);
  const ended = () => fetch.mock.calls.filter(([, init]) => init?.method === "DELETE").map(([url]) => url);
  return { room, call, fetch, microphone, openMicrophone, speaker, phases, ended };
}

describe("a call", () => {
  it("joins the session's room with its token and publishes the microphone", async () => {
    const { call, room, microphone, phases } = world();
    await call.start();
    expect(phases()).toEqual(["preparing", "connecting", "connected"]);
    expect(room.connect).toHaveBeenCalledExactlyOnceWith(SESSION.url, SESSION.token);
    expect(room.localParticipant.publishTrack).toHaveBeenCalledExactlyOnceWith(microphone.asTrack, {
      source: Track.Source.Microphone,
    });
    expect(call.active).toBe(true);
  });

  it("makes no session without a microphone", async () => {
    const { call, fetch, openMicrophone } = world();
    openMicrophone.mockRejectedValue(new DOMException("no", "NotAllowedError"));
    await call.start();
    expect(call.state).toMatchObject({ phase: "failed", problem: expect.stringContaining("Allow it") });
    expect(fetch).not.toHaveBeenCalled();
  });

  it("gives the microphone and the session back when the room cannot be joined", async () => {
    const { call, room, microphone, ended } = world();
    room.connect.mockRejectedValue(new Error("no route"));
    await call.start();
    expect(call.state).toMatchObject({ phase: "failed", problem: expect.stringContaining("not be connected") });
    expect(microphone.stop).toHaveBeenCalled();
    expect(ended()).toEqual(["https://api.example/v1/sessions/s1"]);
  });

  it("says what the api said", async () => {
    const { call, fetch, microphone } = world();
    fetch.mockResolvedValue(json({}, 429, { "retry-after": "7" }));
    await call.start();
    expect(call.state.problem).toBe("Too many calls were started from here. Try again in 7 seconds.");
    expect(microphone.stop).toHaveBeenCalled();
  });

  it("is over when the user hangs up, and can be made again", async () => {
    const { call, room, microphone, speaker, ended } = world();
    await call.start();
    call.end();
    expect(call.state).toMatchObject({ phase: "ended", problem: "" });
    expect(speaker.replaceChildren).toHaveBeenCalled();
    expect(room.disconnect).toHaveBeenCalled();
    expect(microphone.stop).toHaveBeenCalled();
    expect(ended()).toHaveLength(1);
    call.end();
    expect(ended()).toHaveLength(1);
    await call.start();
    expect(call.state.phase).toBe("connected");
  });

  it("is not made behind the back of a user who hung up while it was prepared", async () => {
    const { call, fetch, openMicrophone, microphone } = world();
    const opened = Promise.withResolvers<never>();
    openMicrophone.mockReturnValue(opened.promise);
    const starting = call.start();
    call.end();
    opened.resolve(microphone.asTrack as never);
    await starting;
    expect(call.state.phase).toBe("ended");
    expect(fetch).not.toHaveBeenCalled();
    expect(microphone.stop).toHaveBeenCalled();
  });

  it("ends the session that was made while the user hung up", async () => {
    const { call, fetch, room, ended } = world();
    const answered = Promise.withResolvers<Response>();
    fetch.mockReturnValueOnce(answered.promise);
    const starting = call.start();
    await vi.waitFor(() => expect(fetch).toHaveBeenCalled());
    call.end();
    answered.resolve(json(SESSION, 201));
    await starting;
    expect(room.connect).not.toHaveBeenCalled();
    expect(ended()).toHaveLength(1);
  });

  it("shows that it reconnects, and that it is back", async () => {
    const { call, room, phases } = world();
    await call.start();
    room.emit(RoomEvent.ConnectionStateChanged, ConnectionState.SignalReconnecting);
    room.emit(RoomEvent.ConnectionStateChanged, ConnectionState.Connected);
    room.emit(RoomEvent.ConnectionStateChanged, ConnectionState.Reconnecting);
    expect(phases().slice(-3)).toEqual(["reconnecting", "connected", "reconnecting"]);
    room.emit(RoomEvent.Disconnected, DisconnectReason.UNKNOWN_REASON);
    expect(call.state).toMatchObject({ phase: "failed", problem: expect.stringContaining("lost") });
  });

  it("knows whether the assistant is there and speaks", async () => {
    const { call, room } = world();
    await call.start();
    expect(call.state.assistant).toBe(false);
    room.join();
    room.emit(RoomEvent.ActiveSpeakersChanged, [{ isLocal: true }, { isLocal: false }]);
    expect(call.state).toMatchObject({ assistant: true, speaking: true });
    room.emit(RoomEvent.ActiveSpeakersChanged, [{ isLocal: true }]);
    room.leave();
    expect(call.state).toMatchObject({ assistant: false, speaking: false });
  });

  it("plays the assistant's audio, and nothing else", async () => {
    const { call, room, speaker } = world();
    await call.start();
    const element = document.createElement("audio");
    const remove = vi.spyOn(element, "remove");
    const track = { kind: Track.Kind.Audio, attach: () => element, detach: () => [element] };
    room.emit(RoomEvent.TrackSubscribed, { kind: Track.Kind.Video, attach: () => expect.unreachable() });
    room.emit(RoomEvent.TrackSubscribed, track);
    expect(speaker.append).toHaveBeenCalledExactlyOnceWith(element);
    room.emit(RoomEvent.TrackUnsubscribed, track);
    expect(remove).toHaveBeenCalled();
  });

  it("asks for a click where the browser plays no sound without one", async () => {
    const { call, room } = world();
    await call.start();
    room.canPlaybackAudio = false;
    room.emit(RoomEvent.AudioPlaybackStatusChanged);
    expect(call.state.silenced).toBe(true);
    await call.allowSound();
    expect(room.startAudio).toHaveBeenCalled();
  });

  it("mutes and unmutes", async () => {
    const { call, microphone } = world();
    await call.start();
    await call.toggleMute();
    expect(call.state.muted).toBe(true);
    await call.toggleMute();
    expect(call.state.muted).toBe(false);
    expect([microphone.mute, microphone.unmute].map((one) => one.mock.calls.length)).toEqual([1, 1]);
  });

  it("writes down what is said, by whom, as it comes", async () => {
    const { call, room } = world();
    await call.start();
    await room.say(["I heard ", "you."], { "lk.segment_id": "a" });
    await room.say(["Hel"], { "lk.segment_id": "b", "lk.transcription_final": "false" }, "caller-1");
    await room.say(["Hello"], { "lk.segment_id": "b", "lk.transcription_final": "true" }, "caller-1");
    expect(call.state.lines).toEqual([
      { id: "a", speaker: "assistant", text: "I heard you.", final: true },
      { id: "b", speaker: "caller", text: "Hello", final: true },
    ]);
    call.end();
    expect(call.state.lines).toHaveLength(2); // still to be read
    await room.say(["late"], { "lk.segment_id": "c" });
    expect(call.state.lines).toHaveLength(2);
    await call.start();
    expect(call.state.lines).toEqual([]);
  });
});

it.each([
  [DisconnectReason.ROOM_DELETED, "ended", ""],
  [DisconnectReason.PARTICIPANT_REMOVED, "ended", "taken out"],
  [DisconnectReason.SERVER_SHUTDOWN, "failed", "restarted"],
  [undefined, "failed", "lost"],
])("an end by %s is %s", (reason, phase, problem) => {
  expect(farewell(reason)).toMatchObject({ phase, problem: expect.stringContaining(problem) });
});

it.each([
  [new SessionRefused("as the api says"), "as the api says"],
  [new DOMException("", "NotFoundError"), "No microphone"],
  [new DOMException("", "NotReadableError"), "another program"],
  ["something else", "not be connected"],
])("%s is explained", (error, said) => {
  expect(explain(error)).toContain(said);
});
