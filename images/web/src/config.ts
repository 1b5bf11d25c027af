/** What the environment of the server tells the page, as `/config.json`. */
export interface Config {
  /** Where the api is: an origin and path without a slash at its end; empty for the page's own origin. */
  readonly api: string;
  /** The release and the track that served the page. */
  readonly release: string;
  readonly track: string;
}

/** Read the configuration; throws when the server does not answer or answers something else. */
export async function readConfig(fetch: typeof globalThis.fetch): Promise<Config> {
  const answer = await fetch("/config.json");
  if (!answer.ok) throw new Error(`config.json: ${answer.status}`);
  const { api, release, track } = (await answer.json()) as Partial<Record<keyof Config, unknown>>;
  return { api: String(api ?? ""), release: String(release ?? "unknown"), track: String(track ?? "") };
}
