// @grpc/grpc-js over TLS with a certificate and a key: node secured.js PROTOS JSON, where JSON says what test_secured.py tells.
const assert = require("node:assert");
const fs = require("node:fs");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [root, told] = [process.argv[2], JSON.parse(process.argv[3])];
const definition = loader.loadSync("inference/grpc_service.proto", { keepCase: true, includeDirs: [root] });
const { inference } = grpc.loadPackageDefinition(definition);
const files = ["ca", "private", "certificate"].map((name) => fs.readFileSync(told[name]));
const client = new inference.GRPCInferenceService(told.grpc, grpc.credentials.createSsl(...files));

function metadataOfServer(key) {
  const metadata = new grpc.Metadata();
  if (key) metadata.set("authorization", `Bearer ${key}`);
  return new Promise((resolve, reject) =>
    client.ServerMetadata({}, metadata, { deadline: Date.now() + 20_000 }, (error, answer) => (error ? reject(error) : resolve(answer))),
  );
}

async function main() {
  assert.strictEqual((await metadataOfServer(told.key)).name, "resonnx");
  await assert.rejects(metadataOfServer(null), { code: grpc.status.UNAUTHENTICATED });
  client.close();
  console.log("done");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
