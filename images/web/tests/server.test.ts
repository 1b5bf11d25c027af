// @vitest-environment node
/** The server: what it makes of its environment; and, where WEB_URL names a running one, what it answers. */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdtemp, readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { describe, expect, it } from "vitest";

const GOOD = { LIVEKIT_PUBLIC_URL: "wss://livekit.example:443/path", VA_RELEASE: "20261124-1", VA_TRACK: "canary" };

/** A folder with an nginx that is a script of ours, and the environment in which `serve` finds it. */
async function withNginx(script: string, environment: Record<string, string>) {
  const folder = await mkdtemp(join(tmpdir(), "serve-"));
  await writeFile(join(folder, "nginx"), `#!/bin/sh\n${script}\n`);
  await chmod(join(folder, "nginx"), 0o755);
  return { folder, env: { PATH: `${folder}:${process.env["PATH"]}`, TMPDIR: folder, ...environment } };
}

/** Run `serve` with an nginx that only ends; returns what nginx would have been given. */
async function serve(environment: Record<string, string>) {
  const { folder, env } = await withNginx("exit 7", environment);
  const done = spawnSync("sh", ["server/serve"], { env, encoding: "utf8" });
  const conf = await readFile(join(folder, "nginx.conf"), "utf8").catch(() => "");
  return { code: done.status, said: done.stderr, conf };
}

describe("serve", () => {
  it("fills in everything and ends as nginx does", async () => {
    const { code, conf } = await serve(GOOD);
    expect(code).toBe(7);
    expect(conf).not.toMatch(/\$\{/);
    expect(conf).toContain("connect-src 'self' wss://livekit.example:443 https://livekit.example:443;");
    expect(conf).toContain('{"api":"","release":"20261124-1","track":"canary"}');
    expect(conf).toContain("worker_shutdown_timeout 10s;");
  });

  it("lets the page reach an api elsewhere", async () => {
    const { conf } = await serve({ ...GOOD, LIVEKIT_PUBLIC_URL: "ws://[::1]:7880", API_URL: "https://api.example/x/" });
    expect(conf).toContain("connect-src 'self' ws://[::1]:7880 http://[::1]:7880 https://api.example;");
    expect(conf).toContain('{"api":"https://api.example/x",');
  });

  it("lets nginx finish when it is told to stop", async () => {
    // No shell script: it cannot catch SIGQUIT when it starts in the background. nginx, like Node, can.
    const body =
      "process.on(`SIGQUIT`, () => setTimeout(() => { console.log(`finished`); process.exit(0); }, 300));" +
      "process.on(`SIGTERM`, () => process.exit(9)); console.log(`up`); setInterval(() => {}, 1000);";
    const script = `exec "${process.execPath}" -e '${body}'`;
    const { env } = await withNginx(script, GOOD);
    const child = spawn("sh", ["server/serve"], { env });
    let said = "";
    child.stdout.on("data", (data) => (said += String(data)));
    await once(child.stdout, "data");
    child.kill("SIGTERM");
    const [code] = await once(child, "close");
    expect([code, said]).toEqual([0, "up\nfinished\n"]);
  });

  it.each([
    ["LIVEKIT_PUBLIC_URL", ""],
    ["LIVEKIT_PUBLIC_URL", "livekit.example"],
    ["LIVEKIT_PUBLIC_URL", "wss://livekit.example; script-src *"],
    ["LIVEKIT_PUBLIC_URL", "wss://livekit.example\nwss://other.example"],
    ["API_URL", "https://api.example'"],
    ["API_URL", "javascript:alert(1)"],
    ["VA_TRACK", "beta"],
    ["VA_RELEASE", 'x"; return 200 "'],
    ["SHUTDOWN_SECONDS", "soon"],
  ])("refuses %s=%j by name", async (name, value) => {
    const { code, said, conf } = await serve({ ...GOOD, [name]: value });
    expect(code).toBe(2);
    expect(said).toContain(`  ${name}: must be`);
    expect(conf).toBe("");
  });
});

describe.skipIf(!process.env["WEB_URL"])("a running server", () => {
  const get = (path: string, init?: RequestInit): Promise<Response> => fetch(`${process.env["WEB_URL"]}${path}`, init);

  it("answers with the page, compressed, and never with a stale one", async () => {
    const page = await get("/");
    expect(page.status).toBe(200);
    expect(page.headers.get("content-type")).toBe("text/html; charset=utf-8");
    expect(page.headers.get("content-encoding")).toBe("gzip");
    expect(page.headers.get("vary")).toContain("Accept-Encoding");
    expect(page.headers.get("cache-control")).toBe("no-cache");
    expect(await page.text()).toContain("<title>Voice Assistant</title>");
    const etag = page.headers.get("etag") ?? "";
    expect(etag).toMatch(/^W\/"[0-9a-f]{32}"$/);
    expect((await get("/", { headers: { "if-none-match": etag } })).status).toBe(304);
    expect((await get("/?from=mail")).headers.get("etag")).toBe(etag);
  });

  it.each(["/", "/config.json", "/nothing", "/favicon.svg", "/healthz"])("sends its security headers with %s", async (path) => {
    const { headers } = await get(path);
    const policy = headers.get("content-security-policy") ?? "";
    expect(policy).toMatch(/^default-src 'none'; script-src 'sha256-[A-Za-z0-9+/]{43}='; style-src 'sha256-/);
    expect(policy).toContain("connect-src 'self' ws://livekit.test:7880 http://livekit.test:7880;");
    expect(policy).not.toContain("unsafe");
    expect(headers.get("x-content-type-options")).toBe("nosniff");
    expect(headers.get("referrer-policy")).toBe("no-referrer");
    expect(headers.get("permissions-policy")).toContain("microphone=(self), camera=()");
    expect(headers.get("x-va-track")).toBe("canary");
    expect(headers.get("x-va-release")).toBe("under-test");
    expect(headers.get("server")).toBe("nginx");
  });

  it("tells the page its configuration", async () => {
    const answer = await get("/config.json");
    expect(answer.headers.get("content-type")).toBe("application/json");
    expect(await answer.json()).toEqual({ api: "", release: "under-test", track: "canary" });
  });

  it("is healthy, knows nothing else, and takes nothing", async () => {
    expect(await (await get("/healthz")).text()).toBe("ok\n");
    expect((await get("/favicon.svg")).headers.get("cache-control")).toBe("public, max-age=86400");
    for (const path of ["/index.html.gz", "/server/nginx.conf", "/../server/serve", "/etc/passwd"]) {
      expect((await get(path)).status).toBe(404);
    }
    expect((await get("/", { method: "POST", body: "x" })).status).toBe(405);
  });
});
