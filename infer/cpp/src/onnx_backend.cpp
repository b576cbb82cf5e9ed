// ONNX Runtime, on the CPU or by its CUDA provider.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <fstream>

#include "backend.hpp"

namespace verydeep {
namespace {

constexpr int kCallPixels = 10 * 224 * 224;  // of views in one call on a CPU: more costs time (infer/onnx_engine.py)

Ort::Env& environment() {
  static Ort::Env env(ORT_LOGGING_LEVEL_FATAL, "verydeep");
  return env;
}

class OnnxBackend final : public Backend {
 public:
  OnnxBackend(const std::string& path, const Options& options) : on_cuda_(options.cuda) {
    Ort::SessionOptions chosen;
    chosen.SetIntraOpNumThreads(options.threads);
    chosen.SetLogSeverityLevel(4);
    try {
      if (options.cuda) {
        OrtCUDAProviderOptions cuda{};
        cuda.device_id = options.device;
        chosen.AppendExecutionProvider_CUDA(cuda);
      }
      session_ = Ort::Session(environment(), path.c_str(), chosen);
    } catch (const Ort::Exception& error) {
      throw Error(ErrorCode::unusable_engine, path + ": not a model that can be opened (" + first_line(error) + ")");
    }
    Ort::AllocatorWithDefaultOptions allocator;
    const Ort::ModelMetadata metadata = session_.GetModelMetadata();
    const auto found = metadata.LookupCustomMetadataMapAllocated("spec", allocator);
    if (!found)
      throw Error(ErrorCode::unusable_engine,
                  path + ": an ONNX model without our spec: import it with python -m export.from_onnx");
    try {
      spec_ = parse_spec(found.get());
    } catch (const Error& error) {
      throw Error(ErrorCode::unusable_engine, path + ": " + error.what());
    }
    if (const auto test = metadata.LookupCustomMetadataMapAllocated("self_test", allocator)) self_test_ = test.get();
    runtime_ = "onnxruntime-" + spec_.precision;
    shapes_ = default_shapes(spec_, options.scales.empty()
                                        ? 0
                                        : *std::max_element(options.scales.begin(), options.scales.end()));
  }

  const ModelSpec& spec() const override { return spec_; }
  const std::vector<ShapeRange>& shapes() const override { return shapes_; }
  const std::string& runtime() const override { return runtime_; }
  const std::string& self_test() const override { return self_test_; }
  bool rescales() const override { return on_cuda_; }
  int pixels_per_call() const override { return kCallPixels; }

  Answer run(const Feed& feed, bool with_pixel_sums) override {
    try {
      return spec_.interface == "views" ? run_views(feed, with_pixel_sums) : run_ready(feed, with_pixel_sums);
    } catch (const Ort::Exception& error) {
      throw Error(ErrorCode::runtime_failure, "ONNX Runtime: " + first_line(error));
    }
  }

 private:
  static std::string first_line(const std::exception& error) {
    std::string text = error.what();
    text = text.substr(0, text.find('\n'));
    for (char& c : text)
      if (c < ' ' || c > '~') c = '?';  // it may quote a damaged model
    return text;
  }

  template <typename T>
  Ort::Value tensor(const std::vector<T>& values, std::initializer_list<std::int64_t> shape) const {
    return Ort::Value::CreateTensor<T>(memory_, const_cast<T*>(values.data()), values.size(), shape.begin(),
                                       shape.size());
  }

  Answer run_views(const Feed& feed, bool with_pixel_sums) {
    const Taps &columns = feed.columns, &lines = feed.lines;
    std::array<const char*, 7> names{"image", "col_first", "col_taps", "row_first", "row_taps", "rows", "cols"};
    std::array<Ort::Value, 7> inputs{
        tensor(feed.image->values, {feed.image->height, feed.image->width, 3}),
        tensor(columns.first, {feed.rescaled_width}),
        tensor(columns.taps, {columns.count, feed.rescaled_width}),
        tensor(lines.first, {feed.rescaled_height}),
        tensor(lines.taps, {lines.count, feed.rescaled_height}),
        tensor(feed.rows, {feed.views, feed.height}),
        tensor(feed.cols, {feed.views, feed.width}),
    };
    return call(names.data(), inputs.data(), inputs.size(), feed.views, with_pixel_sums);
  }

  // For models that take ready pixels: u8 [views, height, width, 3], or floats [views, 3, height, width].
  Answer run_ready(const Feed& feed, bool with_pixel_sums) {
    const std::size_t area = static_cast<std::size_t>(feed.height) * feed.width;
    std::vector<std::uint8_t> pixels(3 * area * feed.views);
    std::uint8_t* out = pixels.data();
    for (int v = 0; v < feed.views; ++v)
      for (int y = 0; y < feed.height; ++y) {
        const std::uint8_t* row = &feed.image->values[3 * static_cast<std::size_t>(feed.rows[v * feed.height + y])];
        for (int x = 0; x < feed.width; ++x, out += 3)
          std::copy_n(row + 3 * static_cast<std::size_t>(feed.cols[v * feed.width + x]), 3, out);
      }
    if (spec_.interface == "images") {
      const char* name = "images";
      Ort::Value input = tensor(pixels, {feed.views, feed.height, feed.width, 3});
      return call(&name, &input, 1, feed.views, with_pixel_sums);
    }
    std::vector<float> planes(pixels.size());
    const auto &mean = spec_.preprocessing.mean_rgb, &std = spec_.preprocessing.std_rgb;
    for (int v = 0; v < feed.views; ++v)
      for (std::size_t c = 0; c < 3; ++c)
        for (std::size_t i = 0; i < area; ++i)
          planes[(3 * static_cast<std::size_t>(v) + c) * area + i] =
              (static_cast<float>(pixels[3 * (v * area + i) + c]) - mean[c]) / std[c];
    const char* name = "input";
    Ort::Value input = tensor(planes, {feed.views, 3, feed.height, feed.width});
    Answer answer = call(&name, &input, 1, feed.views, false);
    if (with_pixel_sums) answer.pixel_sums = pixel_sums(pixels, feed.views, area);
    return answer;
  }

  static std::vector<std::int32_t> pixel_sums(const std::vector<std::uint8_t>& pixels, int views, std::size_t area) {
    std::vector<std::int32_t> sums(6 * static_cast<std::size_t>(views));
    for (int v = 0; v < views; ++v)
      for (std::size_t i = 0; i < area; ++i)
        for (std::size_t c = 0; c < 3; ++c) {
          const std::int32_t value = pixels[3 * (v * area + i) + c];
          sums[6 * static_cast<std::size_t>(v) + c] += value;
          sums[6 * static_cast<std::size_t>(v) + 3 + c] += value * static_cast<std::int32_t>(1 + i % 2);
        }
    return sums;
  }

  Answer call(const char* const* names, const Ort::Value* inputs, std::size_t count, int views, bool with_pixel_sums) {
    const char* outputs[] = {"posterior", "pixel_sums"};
    auto results = session_.Run(Ort::RunOptions{nullptr}, names, inputs, count, outputs, with_pixel_sums ? 2 : 1);
    Answer answer;
    const std::size_t posteriors = static_cast<std::size_t>(views) * spec_.classes.size();
    if (results[0].GetTensorTypeAndShapeInfo().GetElementCount() != posteriors)
      throw Error(ErrorCode::runtime_failure, "the model answers with another number of classes than it describes");
    const float* posterior = results[0].GetTensorData<float>();
    answer.posterior.assign(posterior, posterior + posteriors);
    if (with_pixel_sums) {
      const auto* sums = results[1].GetTensorData<std::int32_t>();
      answer.pixel_sums.assign(sums, sums + results[1].GetTensorTypeAndShapeInfo().GetElementCount());
    }
    return answer;
  }

  bool on_cuda_;
  Ort::Session session_{nullptr};
  Ort::MemoryInfo memory_ = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  ModelSpec spec_;
  std::vector<ShapeRange> shapes_;
  std::string runtime_, self_test_;
};

}  // namespace

std::unique_ptr<Backend> open_onnx(const std::string& path, const Options& options) {
  return std::make_unique<OnnxBackend>(path, options);
}

}  // namespace verydeep
