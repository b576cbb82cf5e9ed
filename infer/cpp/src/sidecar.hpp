// model.engine.json, which says what a plan is (export/tensorrt/sidecar.py, infer/tensorrt/sidecar.py).
#pragma once

#include <string>
#include <vector>

#include "spec.hpp"

namespace verydeep {

struct Sidecar {
  std::string path;    // of the plan
  std::string sha256;  // of the plan's bytes
  ModelSpec spec;
  std::vector<ShapeRange> shapes;  // of the plan's profiles, in their order
  std::string version;             // of TensorRT
  std::vector<std::string> targets;
  bool version_compatible = false, hardware_compatible = false;
  std::string self_test;  // JSON, empty where there is none

  std::string rebuild() const;  // the command that makes the plan again
};

// What lies beside `plan`, whose bytes are given: loading a plan runs native code from it, so nothing of it is loaded
// before. All raise Error (unusable_engine): for a sidecar that is missing, damaged or of another plan,
Sidecar read_sidecar(const std::string& path, const std::string& plan);
Sidecar parse_sidecar(const std::string& path, const std::string& json);
// unless the library (10.14.1.48) is the plan's,
void check_version(const Sidecar& sidecar, const std::string& found);
// unless the plan is for a GPU like this one (sm86).
void check_target(const Sidecar& sidecar, const std::string& target, const std::string& name);

}  // namespace verydeep
