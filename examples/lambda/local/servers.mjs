// node servers.mjs sqs|dynamodb: serves on a free port of the loopback
// interface, prints its URL, and ends when its standard input does.
const what = process.argv[2];
if (what === "sqs") {
  const { buildApp } = await import("fauxqs");
  console.log(await buildApp({ logger: false }).listen({ port: 0, host: "127.0.0.1" }));
} else {
  const { default: dynalite } = await import("dynalite");
  const server = dynalite({ createTableMs: 0 });
  server.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}`));
}
process.stdin.on("end", () => process.exit(0)).resume();
