import { defineConfig } from "vitest/config";

const reports = process.env["REPORTS"];

export default defineConfig({
  test: {
    include: ["tests/**/*.test.ts"],
    environment: "happy-dom",
    restoreMocks: true,
    reporters: reports ? ["default", ["junit", { outputFile: `${reports}/junit.xml` }]] : ["default"],
    coverage: {
      provider: "v8",
      reportOnFailure: true,
      include: ["src/**/*.ts"],
      reporter: reports ? ["text", ["cobertura", { file: "coverage.xml" }]] : ["text"],
      ...(reports ? { reportsDirectory: reports, clean: false } : {}),
    },
  },
});
