// node build.mjs FOLDER: make what the image serves.
//
//   FOLDER/page/       index.html with script and style inside, once more as .gz, and the icon
//   FOLDER/server/     nginx.conf with the page's hashes filled in, and what starts it
//   FOLDER/packages/   package.json and licence of each package whose code is in the page: what the scan reads
//
// The page is one document on purpose. While a canary runs, each request may be answered by either release: a page
// in parts would at times get a part of the other one. The same sources and lock give the same bytes.

import { createHash } from "node:crypto";
import { cp, mkdir, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { gzipSync } from "node:zlib";

import { build } from "esbuild";

const folder = process.argv[2];
if (!folder) throw new Error("usage: node build.mjs FOLDER");
await rm(folder, { recursive: true, force: true });

const bundled = (entry, options) =>
  build({ entryPoints: [entry], bundle: true, minify: true, write: false, legalComments: "none", ...options });
const script = await bundled("src/main.ts", { format: "esm", target: "es2022" });
const style = await bundled("src/style.css", { target: ["chrome111", "firefox115", "safari16.4"] });
const [js, css] = [script, style].map((one) => one.outputFiles[0].text.trim());
if (/<\/script|<!--/i.test(js) || /<\/style/i.test(css)) throw new Error("the bundle would end its own element");

const fill = (text, values) =>
  text.replace(/%([A-Z_]+)%/g, (all, name) => {
    if (!(name in values)) throw new Error(`nothing to fill in for ${all}`);
    return values[name];
  });
const sha256 = (text, encoding) => createHash("sha256").update(text).digest(encoding);

const html = fill(await readFile("src/index.html", "utf8"), { SCRIPT: js, STYLE: css });
await mkdir(join(folder, "page"), { recursive: true });
await writeFile(join(folder, "page/index.html"), html);
await writeFile(join(folder, "page/index.html.gz"), gzipSync(html, { level: 9 }));
await cp("src/favicon.svg", join(folder, "page/favicon.svg"));

await cp("server", join(folder, "server"), { recursive: true });
const server = fill(await readFile("server/nginx.conf", "utf8"), {
  SCRIPT_HASH: sha256(js, "base64"),
  STYLE_HASH: sha256(css, "base64"),
  ETAG: sha256(html, "hex").slice(0, 32),
});
await writeFile(join(folder, "server/nginx.conf"), server);

// By the lock, not by what the bundler saw: packages come with others bundled into them.
const lock = JSON.parse(await readFile("package-lock.json", "utf8"));
const packages = Object.entries(lock.packages).flatMap(([path, { dev, peer }]) => (path && !dev && !peer ? [path] : []));
for (const source of packages.sort()) {
  const target = join(folder, "packages", source.replace(/^node_modules\//, ""));
  for (const file of await readdir(source)) {
    if (!/^(package\.json$|licen[cs]e|notice|copying)/i.test(file)) continue;
    await mkdir(dirname(join(target, file)), { recursive: true });
    await cp(join(source, file), join(target, file));
  }
}
console.log(`${packages.length} packages, ${html.length} bytes, ${gzipSync(html).length} compressed`);
