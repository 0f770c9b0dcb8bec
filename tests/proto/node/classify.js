// Classifies a picture with both services: node classify.js PROTOS HOST:PORT MODEL PICTURE. Prints one line of JSON.
const fs = require("node:fs");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [root, server, model, picture] = process.argv.slice(2);
const definition = loader.loadSync(["resonnx/v1/vision.proto", "inference/grpc_service.proto"], {
  includeDirs: [root],
  keepCase: true,
  longs: Number,
});
const { resonnx, inference } = grpc.loadPackageDefinition(definition);
const file = fs.readFileSync(picture);

function call(client, method, request) {
  const deadline = Date.now() + 20_000;
  return new Promise((resolve, reject) =>
    client[method](request, { deadline }, (error, answer) => (error ? reject(error) : resolve(answer))),
  );
}

function bytesElement(content) {
  const length = Buffer.alloc(4);
  length.writeUInt32LE(content.length);
  return Buffer.concat([length, content]);
}

async function main() {
  const credentials = grpc.credentials.createInsecure();
  const vision = new resonnx.v1.Vision(server, credentials);
  const classified = await call(vision, "Classify", { model, image: { encoded: file }, top_k: 1 });
  const tensors = new inference.GRPCInferenceService(server, credentials);
  const inferred = await call(tensors, "ModelInfer", {
    model_name: model,
    inputs: [{ name: "image", datatype: "BYTES", shape: [1, 1] }],
    outputs: [{ name: "probabilities", parameters: { classification: { int64_param: 1 } } }],
    raw_input_contents: [bytesElement(file)],
  });
  const best = inferred.raw_output_contents[0].subarray(4).toString().split(":");
  console.log(JSON.stringify({ vision: classified.predictions[0].label, tensors: best[2] }));
  vision.close();
  tensors.close();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
