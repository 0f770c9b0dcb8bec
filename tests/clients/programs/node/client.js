// Calls all services by @grpc/grpc-js: node client.js PROTOS JSON, where JSON says what checks.py's Started does.
const assert = require("node:assert");
const fs = require("node:fs");
const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [root, told] = [process.argv[2], JSON.parse(process.argv[3])];
const options = { keepCase: true, longs: Number, enums: String, defaults: true };
const load = (files, folder) => grpc.loadPackageDefinition(loader.loadSync(files, { ...options, includeDirs: [folder] }));
const { resonnx, inference } = load(["resonnx/v1/vision.proto", "inference/grpc_service.proto"], root);
const ofPackage = (name, folder) => path.join(path.dirname(require.resolve(`${name}/package.json`)), folder);
const health = load(["health/v1/health.proto"], ofPackage("grpc-health-check", "proto")).grpc.health.v1;
const reflection = load(["grpc/reflection/v1/reflection.proto"], ofPackage("@grpc/reflection", "build/proto")).grpc.reflection.v1;

const credentials = grpc.credentials.createInsecure();
const picture = { encoded: fs.readFileSync(told.picture) };
const scene = { encoded: fs.readFileSync(told.scene) };
const raw = { raw: { rgb: Buffer.alloc(32 * 32 * 3, 7), width: 32, height: 32 } };

function call(client, method, request, callOptions = {}) {
  const metadata = new grpc.Metadata();
  metadata.set("authorization", "Bearer unused");
  return new Promise((resolve, reject) =>
    client[method](request, metadata, { deadline: Date.now() + 20_000, ...callOptions }, (error, answer) =>
      error ? reject(error) : resolve(answer),
    ),
  );
}

// All answers of a stream; `most` ends it after so many.
function answers(stream, most = Infinity) {
  return new Promise((resolve, reject) => {
    const seen = [];
    stream.on("data", (answer) => {
      seen.push(answer);
      if (seen.length === most) stream.cancel();
    });
    stream.on("error", (error) => (error.code === grpc.status.CANCELLED ? resolve(seen) : reject(error)));
    stream.on("end", () => resolve(seen));
  });
}

async function pictures() {
  const vision = new resonnx.v1.Vision(told.grpc, credentials);
  const listed = await call(vision, "ListModels", {});
  assert.ok(listed.models.some((model) => model.name === "digits"));
  assert.strictEqual((await call(vision, "GetModel", { model: "digits", version: 1 })).summary.name, "digits");
  assert.strictEqual((await call(vision, "GetModel", { model: "digits", version_label: "canary" })).summary.version, 1);
  const request = { model: "digits", image: picture, top_k: 1, id: "a", priority: 1, timeout_us: 10_000_000 };
  const one = await call(vision, "Classify", { ...request, version: 1, return_features: true });
  assert.strictEqual(one.predictions[0].label, told.label);
  assert.ok(one.features.length > 0);
  const labelled = await call(vision, "Classify", { model: "digits", image: raw, version_label: "canary" });
  assert.strictEqual(labelled.version, 1);
  const many = vision.ClassifyStream();
  many.write({ ...request, version: 1, return_features: true });
  many.write({ model: "digits", image: raw, version_label: "canary", id: "b" });
  many.end();
  assert.deepStrictEqual((await answers(many)).map((each) => each.id).sort(), ["a", "b"]);
  const usual = { model: "scenes", image: scene, id: "c", priority: 1, timeout_us: 10_000_000, max_tokens: 12 };
  const beams = { ...usual, version: 1, beam_width: 3, min_tokens: 2, length_normalization: "LENGTH_NORMALIZATION_GNMT" };
  const best = await call(vision, "Caption", { ...beams, num_captions: 2, return_attention: true });
  assert.strictEqual(best.captions.length, 2);
  const words = best.captions[0].words.map((word) => word.text);
  const steered = { prefix: words.slice(0, 1), forbidden_words: words.slice(-1), version_label: "canary" };
  const sampled = { ...usual, ...steered, image: raw, temperature: 0.8, top_k: 5, top_p: 0.9, seed: 3 };
  const sample = await call(vision, "Caption", sampled);
  assert.strictEqual(sample.captions[0].words[0].text, words[0]);
  for (const each of [{ ...beams, num_captions: 1, return_attention: true }, sampled]) {
    const events = await answers(vision.StreamCaption(each));
    assert.ok(events.at(-1).final.captions[0].words.length > 0);
  }
  vision.close();
}

function bytesElement(content) {
  const length = Buffer.alloc(4);
  length.writeUInt32LE(content.length);
  return Buffer.concat([length, content]);
}

async function tensors() {
  const client = new inference.GRPCInferenceService(told.grpc, credentials);
  for (const method of ["ServerLive", "ServerReady", "ServerMetadata"]) await call(client, method, {});
  for (const method of ["ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"])
    await call(client, method, { name: "digits", version: "1" });
  const inferred = await call(client, "ModelInfer", {
    model_name: "digits",
    inputs: [{ name: "image", datatype: "BYTES", shape: [1, 1] }],
    outputs: [{ name: "probabilities", parameters: { classification: { int64_param: 1 } } }],
    raw_input_contents: [bytesElement(picture.encoded)],
  });
  assert.ok(inferred.raw_output_contents[0].subarray(4).toString().endsWith(`:${told.label}`));
  const typed = {
    BOOL: { bool_contents: [true, false, true] }, UINT8: { uint_contents: [1, 2, 3] },
    UINT16: { uint_contents: [1, 2, 3] }, UINT32: { uint_contents: [1, 2, 3] }, UINT64: { uint64_contents: [1, 2, 3] },
    INT8: { int_contents: [1, 2, 3] }, INT16: { int_contents: [1, 2, 3] }, INT32: { int_contents: [1, 2, 3] },
    INT64: { int64_contents: [1, 2, 3] }, FP32: { fp32_contents: [1, 2, 3] }, FP64: { fp64_contents: [1, 2, 3] },
    BYTES: { bytes_contents: ["a", "b", "c"].map((text) => Buffer.from(text)) },
  };
  const requests = Object.entries(typed).map(([datatype, contents]) => ({
    model_name: `identity_${datatype.toLowerCase()}`,
    inputs: [{ name: "x", datatype, shape: [1, 3], contents }],
    parameters: { priority: { int64_param: 1 } },
    id: datatype,
  }));
  for (const request of requests) assert.strictEqual((await call(client, "ModelInfer", request)).id, request.id);
  const stream = client.ModelStreamInfer();
  for (const request of requests) stream.write(request);
  stream.end();
  const streamed = await answers(stream);
  assert.deepStrictEqual(streamed.map((each) => each.error_message), requests.map(() => ""));
  assert.deepStrictEqual(streamed.map((each) => each.infer_response.id), Object.keys(typed));
  client.close();
}

async function operations() {
  const checking = new health.Health(told.grpc, credentials);
  assert.strictEqual((await call(checking, "check", { service: "resonnx.v1.Vision/digits" })).status, "SERVING");
  const [first] = await answers(checking.watch({ service: "" }), 1);
  assert.strictEqual(first.status, "SERVING");
  checking.close();
  const reflected = new reflection.ServerReflection(told.grpc, credentials);
  const stream = reflected.ServerReflectionInfo();
  for (const request of [{ list_services: "" }, { file_containing_symbol: "resonnx.v1.Vision" }]) stream.write(request);
  stream.end();
  const [services, files] = await answers(stream);
  assert.ok(services.list_services_response.service.length >= 4);
  assert.ok(files.file_descriptor_response.file_descriptor_proto.length > 0);
  reflected.close();
}

pictures()
  .then(tensors)
  .then(operations)
  .then(() => console.log("done"))
  .catch((error) => {
    console.error(error);
    process.exit(1);
  });
