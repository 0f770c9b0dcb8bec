// Checks the Prometheus operator's objects, JSON on standard input, by its schemas.
import { readFileSync } from "node:fs";
import { PodMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor";
import { PrometheusRule } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule";

const kinds = { PodMonitor, PrometheusRule };
for (const object of JSON.parse(readFileSync(0))) {
  new kinds[object.kind](object).validate();
  console.log(object.kind, "is sound");
}
