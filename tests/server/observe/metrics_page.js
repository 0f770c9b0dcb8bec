// Reads a metrics page in Prometheus' text format from stdin, and prints its families as JSON.
const parse = require("parse-prometheus-text-format");
process.stdout.write(JSON.stringify(parse(require("fs").readFileSync(0, "utf8"))));
