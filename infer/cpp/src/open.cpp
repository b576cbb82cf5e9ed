#include <algorithm>
#include <fstream>

#include "backend.hpp"
#include "files.hpp"

namespace verydeep {

void require_output(const ModelSpec& spec, const std::string& output) {
  if (std::find(spec.outputs.begin(), spec.outputs.end(), output) == spec.outputs.end())
    throw Error(ErrorCode::unusable_engine, spec.name + " has no output " + output + ": export it with --outputs " +
                                                (output == "score_map" ? "posterior,score_map" : output));
}

std::unique_ptr<Backend> open_backend(const std::string& path, const Options& options) {
  const auto dot = path.rfind('.');
  const std::string suffix = dot == std::string::npos ? "" : path.substr(dot);
  for (const char* own : {"", ".data"}) require_regular(path + own, ErrorCode::unusable_engine);
  if (!std::ifstream(path)) throw Error(ErrorCode::unusable_engine, path + ": no such file, expected an engine");
  if (suffix == ".onnx") {
#ifdef VERYDEEP_ONNXRUNTIME
    return open_onnx(path, options);
#else
    throw Error(ErrorCode::unusable_engine, path + ": this library was built without ONNX Runtime");
#endif
  }
  if (suffix == ".engine") {
#ifdef VERYDEEP_TENSORRT
    return open_tensorrt(path, options);
#else
    (void)options;
    throw Error(ErrorCode::unusable_engine, path + ": this library was built without TensorRT (-DVERYDEEP_TENSORRT=ON): use the .onnx beside it");
#endif
  }
  throw Error(ErrorCode::unusable_engine, path + ": unknown kind of engine, expected .onnx or .engine");
}

}  // namespace verydeep
