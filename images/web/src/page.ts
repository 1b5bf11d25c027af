import { Room, createLocalAudioTrack } from "livekit-client";

import { Call } from "./call";
import { readConfig } from "./config";
import { View } from "./view";

/** Make the page work; resolves when a call can be made, or when the page says why none can. */
export async function open(fetch: typeof globalThis.fetch = (...all) => globalThis.fetch(...all)): Promise<void> {
  const view = new View();
  if (!navigator.mediaDevices) {
    view.broken("This browser gives no microphone to this page. Open it over https in a current browser.");
    return;
  }
  let config;
  try {
    config = await readConfig(fetch);
  } catch {
    view.broken("The page could not be loaded fully. Reload it.");
    return;
  }
  view.about(`Release ${config.release}${config.track === "canary" ? " (canary)" : ""}`);
  const call = new Call({
    api: config.api,
    fetch,
    newRoom: () => new Room(),
    openMicrophone: () => createLocalAudioTrack({ echoCancellation: true, noiseSuppression: true }),
    speaker: view.audio,
    show: (state) => view.show(state),
  });
  view.call.addEventListener("click", () => (call.active ? call.end() : void call.start()));
  view.mute.addEventListener("click", () => void call.toggleMute());
  view.sound.addEventListener("click", () => void call.allowSound());
  // Whoever closes the page hangs up.
  window.addEventListener("pagehide", () => call.end());
  view.show(call.state);
}
