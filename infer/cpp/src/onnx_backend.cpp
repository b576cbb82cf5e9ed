// ONNX Runtime, on the CPU or by its CUDA provider.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <memory>
#include <optional>

#include "backend.hpp"
#include "files.hpp"
#include "inputs.hpp"
#include "sha256.hpp"

namespace verydeep {
namespace {

constexpr int kCallPixels = 10 * 224 * 224;  // of views in one call on a CPU: more costs time (infer/onnx_engine.py)

Ort::Env& environment() {
  static Ort::Env env(ORT_LOGGING_LEVEL_FATAL, "verydeep");
  return env;
}

// Adds the CUDA provider, as infer/onnx_engine.py does: FP32 stays FP32 (by default it is computed as TF32, with 10 bits
// of mantissa), and convolutions are chosen by rule: to time all of them takes up to a second for each new shape.
void append_cuda(Ort::SessionOptions& chosen, int device) {
  const std::string ordinal = std::to_string(device);
  const char* names[] = {"device_id", "use_tf32", "cudnn_conv_algo_search"};
  const char* values[] = {ordinal.c_str(), "0", "HEURISTIC"};

  const OrtApi& api = Ort::GetApi();
  OrtCUDAProviderOptionsV2* made = nullptr;
  Ort::ThrowOnError(api.CreateCUDAProviderOptions(&made));
  const std::unique_ptr<OrtCUDAProviderOptionsV2, void (*)(OrtCUDAProviderOptionsV2*)> cuda(
      made, api.ReleaseCUDAProviderOptions);
  Ort::ThrowOnError(api.UpdateCUDAProviderOptions(cuda.get(), names, values, std::size(names)));
  chosen.AppendExecutionProvider_CUDA_V2(*cuda);
}

// The entry by which ONNX Runtime makes no integer layers of its own of a graph's QuantizeLinear and DequantizeLinear:
// they saturate on a CPU without VNNI (infer/onnx_engine.py).
constexpr const char* kAsWritten = "session.disable_quant_qdq";

class OnnxBackend final : public Backend {
 public:
  OnnxBackend(const std::string& path, const Options& options) : on_cuda_(options.cuda) {
    Ort::SessionOptions chosen;
    chosen.SetIntraOpNumThreads(options.threads);
    chosen.SetLogSeverityLevel(4);
    try {
      if (options.cuda) append_cuda(chosen, options.device);
    } catch (const Ort::Exception& error) {
      throw Error(ErrorCode::unusable_engine, path + ": not a model that can be opened (" + first_line(error) + ")");
    }
    open(path, chosen);
    arithmetic_ = spec_.precision;
    if (!options.cuda && spec_.precision != "fp32") open_check_graph(path, chosen);
    if (metadata("int8") && !metadata("check_of")) {
      session_ = Ort::Session(nullptr);  // two would take the memory of both
      chosen.AddConfigEntry(kAsWritten, "1");
      open(path, chosen);
    }
    check_graph(path);
    self_test_ = metadata("self_test").value_or("");
    runtime_ = "onnxruntime-" + spec_.precision;
    shapes_ = default_shapes(spec_, options.scales.empty()
                                        ? 0
                                        : *std::max_element(options.scales.begin(), options.scales.end()));
  }

  const ModelSpec& spec() const override { return spec_; }
  const std::vector<ShapeRange>& shapes() const override { return shapes_; }
  const std::string& runtime() const override { return runtime_; }
  const std::string& arithmetic() const override { return arithmetic_; }
  const std::string& self_test() const override { return self_test_; }
  bool rescales(Size, Size, Size) const override { return on_cuda_; }
  std::size_t views_per_call(Size view) const override {
    return static_cast<std::size_t>(
        std::max<std::int64_t>(1, kCallPixels / std::max<std::int64_t>(1, std::int64_t{view.height} * view.width)));
  }

  Answer run(const Feed& feed, bool with_pixel_sums) override {
    try {
      return call(feed, with_pixel_sums);
    } catch (const Ort::Exception& error) {
      throw Error(ErrorCode::runtime_failure, "ONNX Runtime: " + first_line(error));
    }
  }

  Map run_map(const Feed& feed, const std::string& output) override {
    require_output(spec_, output);
    try {
      const Inputs inputs(feed, spec_);
      const char* outputs[] = {output.c_str()};
      const auto results = run_session(inputs, outputs, 1);
      const auto info = results[0].GetTensorTypeAndShapeInfo();
      const auto shape = info.GetShape();
      return make_map(output, shape, results[0].GetTensorData<float>(), info.GetElementCount());
    } catch (const Ort::Exception& error) {
      throw Error(ErrorCode::runtime_failure, "ONNX Runtime: " + first_line(error));
    }
  }

 private:
  // Opens a model with our spec. Raises Error.
  void open(const std::string& path, const Ort::SessionOptions& chosen) {
    try {
      session_ = Ort::Session(environment(), path.c_str(), chosen);
    } catch (const Ort::Exception& error) {
      throw Error(ErrorCode::unusable_engine, path + ": not a model that can be opened (" + first_line(error) + ")");
    }
    const auto spec = metadata("spec");
    if (!spec)
      throw Error(ErrorCode::unusable_engine,
                  path + ": an ONNX model without our spec: import it with python -m export.from_onnx");
    try {
      spec_ = parse_spec(*spec);
    } catch (const Error& error) {
      throw Error(ErrorCode::unusable_engine, path + ": " + error.what());
    }
  }

  // The CPU's provider keeps half activations in FP32: the check graph beside a model, which rounds them and has the
  // convolutions of an INT8 one in integers, takes its place (infer/onnx_engine.py). Raises Error for one of another.
  void open_check_graph(const std::string& path, const Ort::SessionOptions& chosen) {
    const std::string check = path.substr(0, path.rfind('.')) + ".check.onnx";
    const std::filesystem::path given(path);
    const std::string rounded = spec_.precision == "int8" ? "int8 + fp16, rounded by " : "fp16, rounded by ";
    if (metadata("check_of")) {
      arithmetic_ = rounded + given.filename().string();
      return;
    }
    require_regular(check, ErrorCode::unusable_engine);
    if (!std::filesystem::exists(check)) {
      if (spec_.precision == "fp16") arithmetic_ = kUnrounded;
      if (metadata("int8")) arithmetic_ = kInt8InFp32;
      return;
    }

    session_ = Ort::Session(nullptr);  // two would take the memory of both
    open(check, chosen);
    const std::string bytes = read_file(path, kLargestModelBytes, ErrorCode::unusable_engine);
    if (metadata("check_of") != sha256(bytes.data(), bytes.size()))
      throw Error(ErrorCode::unusable_engine, check + ": was not made of " + given.filename().string() +
                                                  " as it is now: run python -m export.to_check " + path + ", or remove it");
    arithmetic_ = rounded + std::filesystem::path(check).filename().string();
  }

  // What the model says of itself under a key.
  std::optional<std::string> metadata(const char* key) const {
    Ort::AllocatorWithDefaultOptions allocator;
    const auto found = session_.GetModelMetadata().LookupCustomMetadataMapAllocated(key, allocator);
    return found ? std::optional<std::string>(found.get()) : std::nullopt;
  }

  // Raises Error unless the graph has the outputs of the spec, with a value for each class.
  void check_graph(const std::string& path) const {
    Ort::AllocatorWithDefaultOptions allocator;
    const std::size_t count = session_.GetOutputCount();
    for (const std::string& name : spec_.outputs) {
      if (name == "pixel_sums" && spec_.interface == "nchw") continue;
      std::size_t place = 0;
      while (place < count && name != session_.GetOutputNameAllocated(place, allocator).get()) ++place;
      if (place == count) throw Error(ErrorCode::unusable_engine, path + ": its graph has no output " + name);

      const Ort::TypeInfo type = session_.GetOutputTypeInfo(place);
      if (type.GetONNXType() != ONNX_TYPE_TENSOR) check_output(spec_, path, name, false, -1);
      const auto info = type.GetTensorTypeAndShapeInfo();
      const auto shape = info.GetShape();
      const auto expected = name == "pixel_sums" ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
      check_output(spec_, path, name, info.GetElementType() == expected, shape.size() > 1 ? shape[1] : -1);
    }
  }

  static std::string first_line(const std::exception& error) {
    std::string text = error.what();
    text = text.substr(0, text.find('\n'));
    for (char& c : text)
      if (c < ' ' || c > '~') c = '?';  // it may quote a damaged model
    return text;
  }

  Ort::Value tensor(const Input& input) const {
    const ONNXTensorElementDataType type = input.type == Type::u8    ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8
                                           : input.type == Type::i32 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32
                                                                     : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    return Ort::Value::CreateTensor(memory_, const_cast<void*>(input.data), input.bytes(), input.shape.data(),
                                    input.shape.size(), type);
  }

  std::vector<Ort::Value> run_session(const Inputs& inputs, const char* const* outputs, std::size_t count) {
    std::vector<const char*> names;
    std::vector<Ort::Value> values;
    for (const Input& input : inputs.all()) {
      names.push_back(input.name);
      values.push_back(tensor(input));
    }
    return session_.Run(Ort::RunOptions{nullptr}, names.data(), values.data(), values.size(), outputs, count);
  }

  Answer call(const Feed& feed, bool with_pixel_sums) {
    const Inputs inputs(feed, spec_);
    const char* outputs[] = {"posterior", "pixel_sums"};
    const bool in_graph = with_pixel_sums && spec_.interface != "nchw";
    const auto results = run_session(inputs, outputs, in_graph ? 2 : 1);
    Answer answer;
    const std::size_t posteriors = static_cast<std::size_t>(feed.views) * spec_.classes.size();
    if (results[0].GetTensorTypeAndShapeInfo().GetElementCount() != posteriors)
      throw Error(ErrorCode::runtime_failure, "the model answers with another number of classes than it describes");
    const float* posterior = results[0].GetTensorData<float>();
    answer.posterior.assign(posterior, posterior + posteriors);
    if (in_graph) {
      const auto* sums = results[1].GetTensorData<std::int32_t>();
      answer.pixel_sums.assign(sums, sums + results[1].GetTensorTypeAndShapeInfo().GetElementCount());
    } else if (with_pixel_sums) {
      answer.pixel_sums = inputs.pixel_sums();
    }
    return answer;
  }

  bool on_cuda_;
  Ort::Session session_{nullptr};
  Ort::MemoryInfo memory_ = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  ModelSpec spec_;
  std::vector<ShapeRange> shapes_;
  std::string runtime_, arithmetic_, self_test_;
};

}  // namespace

std::unique_ptr<Backend> open_onnx(const std::string& path, const Options& options) {
  return std::make_unique<OnnxBackend>(path, options);
}

}  // namespace verydeep
