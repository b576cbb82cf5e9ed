// TensorRT 10.3 or newer: contexts, profiles, addresses and order; no arithmetic (infer/tensorrt/engine.py).
#include <NvInferRuntime.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <mutex>

#include "backend.hpp"
#include "cuda.hpp"
#include "files.hpp"
#include "inputs.hpp"
#include "sidecar.hpp"

static_assert(NV_TENSORRT_MAJOR * 100 + NV_TENSORRT_MINOR >= 1003, "TensorRT 10.3 or newer is needed");

namespace verydeep {
namespace {

constexpr std::size_t kAlignment = 256;  // bytes: of every address

std::size_t aligned(std::size_t size) { return (size + kAlignment - 1) / kAlignment * kAlignment; }

// What the library said since it was last asked. It keeps its first logger for good, so there is one for the process.
class Messages final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* text) noexcept override {
    if (severity > Severity::kERROR || !text) return;
    const std::lock_guard<std::mutex> lock(busy_);
    if (said_.size() > 2000) return;
    said_ += said_.empty() ? "" : "; ";
    for (const char* c = text; *c; ++c) said_ += *c < ' ' || *c > '~' ? ' ' : *c;
  }

  std::string errors() {
    const std::lock_guard<std::mutex> lock(busy_);
    std::string text = said_.empty() ? "it does not say why" : said_;
    said_.clear();
    return text;
  }

 private:
  std::mutex busy_;
  std::string said_;
};

Messages& messages() {
  static Messages only;
  return only;
}

std::string library_version() {
  const int version = getInferLibVersion();  // 101401 for 10.14.1
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100) + "." + std::to_string(getInferLibBuildVersion());
}

nvinfer1::Dims dims_of(const std::vector<std::int64_t>& shape) {
  nvinfer1::Dims dims{};
  dims.nbDims = static_cast<std::int32_t>(shape.size());
  std::copy(shape.begin(), shape.end(), dims.d);
  return dims;
}

std::size_t element_bytes(nvinfer1::DataType type) {
  switch (type) {
    case nvinfer1::DataType::kFLOAT:
    case nvinfer1::DataType::kINT32:
      return 4;
    case nvinfer1::DataType::kINT64:
      return 8;
    case nvinfer1::DataType::kHALF:
      return 2;
    default:
      return 1;
  }
}

class TensorRTBackend final : public Backend {
  // Runs work on the device; after a failure nothing of it is under way.
  template <typename Work>
  auto guarded(Work&& work) {
    const CudaDevice::Current current(*device_);
    try {
      return work();
    } catch (const Error&) {
      uploaded_ = 0;
      try {
        stream_->synchronize();  // nothing may be using the buffers when the next call comes
      } catch (const Error&) {
      }
      throw;
    }
  }

 public:
  TensorRTBackend(const std::string& path, const Options& options) {
    std::string plan = read_file(path, std::numeric_limits<std::uintmax_t>::max(), ErrorCode::unusable_engine);
    sidecar_ = read_sidecar(path, plan);
    check_version(sidecar_, library_version());
    runtime_name_ = "tensorrt-" + sidecar_.spec.precision;
    device_ = std::make_unique<CudaDevice>(options.device);
    check_target(sidecar_, device_->target(), device_->name());
    const CudaDevice::Current current(*device_);
    try {
      open(plan);
    } catch (...) {
      close();
      throw;
    }
  }

  ~TensorRTBackend() override {
    try {
      const CudaDevice::Current current(*device_);
      close();
    } catch (const Error&) {  // the device is lost: what lay on it is, too
    }
  }

  const ModelSpec& spec() const override { return sidecar_.spec; }
  const std::vector<ShapeRange>& shapes() const override { return sidecar_.shapes; }
  const std::string& runtime() const override { return runtime_name_; }
  const std::string& arithmetic() const override { return sidecar_.spec.precision; }
  const std::string& self_test() const override { return sidecar_.self_test; }

  bool rescales(Size image, Size rescaled, Size view) const override {
    const Filter filter = spec().preprocessing.filter;
    const int columns = make_taps(image.width, rescaled.width, filter).count;
    const int lines = make_taps(image.height, rescaled.height, filter).count;
    return find_profile(view, image, rescaled, lines, columns) >= 0;
  }

  std::size_t views_per_call(Size view) const override {
    const auto suited = profiles_for(view);
    return suited.empty() ? 1 : static_cast<std::size_t>(sidecar_.shapes[suited.front()].views.max);
  }

  Answer run(const Feed& feed, bool with_pixel_sums) override {
    return guarded([&] { return call(feed, with_pixel_sums); });
  }

  Map run_map(const Feed& feed, const std::string& output) override {
    if (std::find(outputs_.begin(), outputs_.end(), output) == outputs_.end()) 
      throw Error(ErrorCode::unusable_engine, sidecar_.path + ": has no output " + output + ": build it from an .onnx that has");
    return guarded([&] { return call_map(feed, output); });
  }

 private:
  void open(const std::string& plan) {
    const std::string& path = sidecar_.path;
    const auto refuse = [&](const std::string& what) {
      throw Error(ErrorCode::unusable_engine, path + ": tensorrt " + what + ": " + messages().errors());
    };
    messages().errors();
    auto* const made = nvinfer1::createInferRuntime(messages());
    // Where CUDA does not start, the library (seen with 10.16) returns the address of a member of a null object.
    if (reinterpret_cast<std::uintptr_t>(made) < 4096) refuse("cannot start");
    runtime_.reset(made);
    // Such a plan carries its own runtime, as code, which is refused by default. Its digest was found right before.
    if (sidecar_.version_compatible) runtime_->setEngineHostCodeAllowed(true);
    engine_.reset(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
    if (!engine_) refuse("cannot load it");
    if (engine_->getNbOptimizationProfiles() != static_cast<std::int32_t>(sidecar_.shapes.size()))
      throw Error(ErrorCode::unusable_engine, path + ": has other profiles than its sidecar names: " + sidecar_.rebuild());
    for (std::int32_t i = 0; i < engine_->getNbIOTensors(); ++i) {
      const char* name = engine_->getIOTensorName(i);
      if (engine_->getTensorIOMode(name) == nvinfer1::TensorIOMode::kOUTPUT) outputs_.push_back(name);
    }
    const char* answer = spec().task == "classify" ? "posterior" : spec().task == "multibox" ? "boxes" : "box_map";
    const bool sums = spec().interface != "nchw" && spec().has("pixel_sums");
    for (const char* needed : {answer, sums ? "pixel_sums" : answer})
      if (std::find(outputs_.begin(), outputs_.end(), needed) == outputs_.end())
        throw Error(ErrorCode::unusable_engine, path + ": has no output " + needed + ": " + sidecar_.rebuild());
    for (const std::string& name : outputs_) {
      const nvinfer1::Dims dims = engine_->getTensorShape(name.c_str());
      const auto expected = name == "pixel_sums" ? nvinfer1::DataType::kINT32 : nvinfer1::DataType::kFLOAT;
      const bool right_type = engine_->getTensorDataType(name.c_str()) == expected;
      check_output(spec(), path, name, right_type, dims.nbDims > 1 ? dims.d[1] : -1);
    }
    for (std::int32_t i = 0; i < engine_->getNbIOTensors(); ++i) {
      const std::string name = engine_->getIOTensorName(i);
      if (engine_->getTensorLocation(name.c_str()) != nvinfer1::TensorLocation::kDEVICE)
        throw Error(ErrorCode::unusable_engine, path + ": wants " + name + " on the host, expected all tensors on the GPU: " +
                                                    sidecar_.rebuild());
    }
    stream_ = std::make_unique<CudaStream>();
  }

  // In the reverse order in which things were made, with the context current.
  void close() {
    if (stream_) {
      try {
        stream_->synchronize();
      } catch (const Error&) {
      }
    }
    contexts_.clear();
    for (DeviceMemory* memory : {&scratch_, &image_, &inputs_, &results_}) memory->release();
    staging_.release();
    answers_.release();
    stream_.reset();
    engine_.reset();
    runtime_.reset();
  }

  // Profiles that take views of this size; that whose kernels were tuned at the nearest one first, and of several of
  // one size that which takes the most views.
  std::vector<std::size_t> profiles_for(Size view) const {
    std::vector<std::size_t> suited;
    const auto& shapes = sidecar_.shapes;
    for (std::size_t i = 0; i < shapes.size(); ++i)
      if (shapes[i].height_px.holds(view.height) && shapes[i].width_px.holds(view.width)) suited.push_back(i);
    const auto distance = [&](std::size_t i) {
      return std::fabs(std::log(static_cast<double>(view.height) / shapes[i].height_px.opt)) +
             std::fabs(std::log(static_cast<double>(view.width) / shapes[i].width_px.opt));
    };
    std::stable_sort(suited.begin(), suited.end(), [&](auto a, auto b) {
      return std::make_pair(distance(a), -shapes[a].views.max) < std::make_pair(distance(b), -shapes[b].views.max);
    });
    return suited;
  }

  // The best profile for a call of so many views (0: of any number), or -1: of those for views of its size that which
  // was tuned for the nearest number of them.
  int find_profile(Size view, Size image, Size rescaled, int lines, int columns, int views = 0) const {
    int best = -1;
    for (const std::size_t i : profiles_for(view)) {
      const ShapeRange& shape = sidecar_.shapes[i];
      const bool ready = spec().interface != "views";
      const bool fits = shape.source_px.holds(image.height) && shape.source_px.holds(image.width) &&
                        shape.rescaled_px.holds(rescaled.height) && shape.rescaled_px.holds(rescaled.width) &&
                        shape.taps.holds(lines) && shape.taps.holds(columns);
      if (!ready && !fits) continue;
      if (views == 0) return static_cast<int>(i);
      if (!shape.views.holds(views)) continue;
      const auto distance = [&](const ShapeRange& tuned) {
        return std::fabs(std::log(static_cast<double>(views) / tuned.views.opt));
      };
      if (best >= 0) {
        const ShapeRange& other = sidecar_.shapes[static_cast<std::size_t>(best)];
        const bool alike = shape.height_px == other.height_px && shape.width_px == other.width_px;
        if (!alike || distance(shape) >= distance(other)) continue;
      }
      best = static_cast<int>(i);
    }
    return best;
  }

  nvinfer1::IExecutionContext& context(int profile) {
    auto& found = contexts_[profile];
    if (!found) {
      found.reset(engine_->createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED));
      must(found != nullptr, "a context");
      must(found->setOptimizationProfileAsync(profile, stream_->get()), "profile " + std::to_string(profile));
    }
    return *found;
  }

  void must(bool done, const std::string& what) const {
    if (!done)
      throw Error(ErrorCode::runtime_failure, sidecar_.path + ": tensorrt refused " + what + ": " + messages().errors());
  }

  struct Output {
    std::size_t offset, bytes;
    nvinfer1::Dims dims;
  };

  // Enqueues a run; where each output will lie in results_.
  std::map<std::string, Output> launch(const Inputs& inputs, const Feed& feed) {
    const Size view{feed.height, feed.width}, image{feed.image->height, feed.image->width};
    const int profile = find_profile(view, image, {feed.rescaled_height, feed.rescaled_width}, feed.lines.count,
                                     feed.columns.count, feed.views);
    if (profile < 0) {
      std::string ranges;
      for (const ShapeRange& shape : sidecar_.shapes) ranges += (ranges.empty() ? "" : "; ") + shape.explain();
      throw Error(ErrorCode::out_of_range, spec().name + ": " + std::to_string(feed.views) + " views of " +
                                               std::to_string(view.height) + "x" + std::to_string(view.width) +
                                               " px are beyond the engine's range (" + ranges + ")");
    }
    nvinfer1::IExecutionContext& run = context(profile);
    upload(inputs, feed.image_id, run);
    const std::int32_t missing = run.inferShapes(0, nullptr);
    must(missing >= 0, "the inputs' shapes, which do not go together");
    must(missing == 0, "a run without the shapes of " + std::to_string(missing) + " inputs");
    const std::size_t needed = run.updateDeviceMemorySizeForShapes();
    must(needed > 0, "to say how much memory a run needs");  // 0: it failed
    const DevicePointer scratch = scratch_.at_least(needed);
    run.setDeviceMemoryV2(reinterpret_cast<void*>(scratch), static_cast<std::int64_t>(scratch_.size()));

    std::map<std::string, Output> places;
    std::size_t total = 0;
    for (const std::string& name : outputs_) {
      const nvinfer1::Dims dims = run.getTensorShape(name.c_str());
      std::size_t bytes = element_bytes(engine_->getTensorDataType(name.c_str()));
      must(dims.nbDims >= 0, "to say the shape of " + name);
      for (std::int32_t i = 0; i < dims.nbDims; ++i) {
        must(dims.d[i] >= 0, "to say the shape of " + name);
        bytes *= static_cast<std::size_t>(dims.d[i]);
      }
      places[name] = {total, bytes, dims};
      total += aligned(bytes);
    }
    const DevicePointer results = results_.at_least(total);
    for (const auto& [name, place] : places)
      must(run.setTensorAddress(name.c_str(), reinterpret_cast<void*>(results + place.offset)), "an address for " + name);
    must(run.enqueueV3(stream_->get()), "a run of profile " + sidecar_.shapes[static_cast<std::size_t>(profile)].name);
    return places;
  }

  Answer call(const Feed& feed, bool with_pixel_sums) {
    const Inputs inputs(feed, spec(), sidecar_.shapes.front().regions);
    const std::map<std::string, Output> places = launch(inputs, feed);
    const DevicePointer results = results_.at_least(1);
    Answer answer;
    answer.posterior.resize(static_cast<std::size_t>(feed.views) * spec().classes.size());
    const bool in_graph = with_pixel_sums && spec().interface != "nchw";
    if (in_graph) answer.pixel_sums.resize(6 * static_cast<std::size_t>(feed.views));
    const std::size_t bytes = answer.posterior.size() * sizeof(float), sums = answer.pixel_sums.size() * 4;
    if (places.at("posterior").bytes != bytes || (in_graph && places.at("pixel_sums").bytes != sums))
      throw Error(ErrorCode::runtime_failure, "the engine answers with other shapes than its sidecar describes");
    std::uint8_t* host = answers_.at_least(bytes + sums + kAlignment);
    stream_->copy_out(host, results + places.at("posterior").offset, bytes);
    if (in_graph) stream_->copy_out(host + aligned(bytes), results + places.at("pixel_sums").offset, sums);
    stream_->synchronize();
    std::memcpy(answer.posterior.data(), host, bytes);
    if (in_graph) std::memcpy(answer.pixel_sums.data(), host + aligned(bytes), sums);
    if (with_pixel_sums && !in_graph) answer.pixel_sums = inputs.pixel_sums();
    return answer;
  }

  Map call_map(const Feed& feed, const std::string& name) {
    const Inputs inputs(feed, spec(), sidecar_.shapes.front().regions);
    const Output place = launch(inputs, feed).at(name);
    std::uint8_t* host = answers_.at_least(place.bytes);
    stream_->copy_out(host, results_.at_least(1) + place.offset, place.bytes);
    stream_->synchronize();
    std::vector<float> values(place.bytes / sizeof(float));
    if (!values.empty()) std::memcpy(values.data(), host, values.size() * sizeof(float));
    return make_map(name, {place.dims.d, place.dims.d + place.dims.nbDims}, values.data(), values.size());
  }

  // Shapes and addresses of all inputs. The pixels of an image go up once for all of its calls.
  void upload(const Inputs& inputs, std::uint64_t image_id, nvinfer1::IExecutionContext& run) {
    std::size_t total = 0;
    for (const Input& input : inputs.all()) total += aligned(input.bytes());
    const bool kept = image_id && image_id == uploaded_;
    uploaded_ = 0;
    std::uint8_t* staging = staging_.at_least(total);
    const DevicePointer block = inputs_.at_least(total);
    std::size_t place = 0;
    for (const Input& input : inputs.all()) {
      must(run.setInputShape(input.name, dims_of(input.shape)), std::string("the shape of ") + input.name);
      DevicePointer address = block + place;
      if (image_id && &input == &inputs.all().front()) {
        address = image_.at_least(input.bytes());
        if (!kept) {
          std::memcpy(staging + place, input.data, input.bytes());
          stream_->copy_in(address, staging + place, input.bytes());
          place += aligned(input.bytes());
        }
      } else {
        std::memcpy(staging + place, input.data, input.bytes());
        place += aligned(input.bytes());
      }
      must(run.setTensorAddress(input.name, reinterpret_cast<void*>(address)), std::string("an address for ") + input.name);
    }
    const std::size_t before = image_id && !kept ? aligned(inputs.all().front().bytes()) : 0;
    if (place > before) stream_->copy_in(block + before, staging + before, place - before);
    uploaded_ = image_id;
  }

  Sidecar sidecar_;
  std::string runtime_name_;
  std::unique_ptr<CudaDevice> device_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::map<int, std::unique_ptr<nvinfer1::IExecutionContext>> contexts_;  // of each profile
  std::unique_ptr<CudaStream> stream_;
  DeviceMemory scratch_, image_, inputs_, results_;
  PinnedMemory staging_, answers_;
  std::uint64_t uploaded_ = 0;  // the image that image_ holds
  std::vector<std::string> outputs_;
};

}  // namespace

std::unique_ptr<Backend> open_tensorrt(const std::string& path, const Options& options) {
  return std::make_unique<TensorRTBackend>(path, options);
}

}  // namespace verydeep
