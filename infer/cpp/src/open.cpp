#include <fstream>

#include "backend.hpp"
#include "files.hpp"

namespace verydeep {

void require_output(const ModelSpec& spec, const std::string& output) {
  if (spec.has(output)) return;
  if (output == "boxes")
    throw Error(ErrorCode::unusable_engine,
                spec.name + " is no MultiBox net, it has no boxes: expected one of a recipe like googlenet-multibox");
  throw Error(ErrorCode::unusable_engine, spec.name + " has no output " + output + ": export it with --outputs " +
                                              (output == "score_map" ? "posterior,score_map" : output));
}

Map make_map(const std::string& output, std::vector<std::int64_t> shape, const float* values, std::size_t count) {
  const bool right = output == "boxes" ? shape.size() == 3 && shape[2] == 5 : shape.size() == 4;
  if (!right || shape[0] != 1)
    throw Error(ErrorCode::runtime_failure, "the model's " + output + " is no map of one view");
  if (shape.size() == 3) shape.insert(shape.begin() + 1, 1);
  Map map{static_cast<int>(shape[1]), static_cast<int>(shape[2]), static_cast<int>(shape[3]), {values, values + count}};
  if (count != static_cast<std::size_t>(shape[1] * shape[2] * shape[3]))
    throw Error(ErrorCode::runtime_failure, "the model's " + output + " has another number of values than its shape");
  return map;
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
