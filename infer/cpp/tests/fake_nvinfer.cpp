// NOT TensorRT: a double of its runtime for tests, behind TensorRT's own headers (tests/support/fake_tensorrt.py does the same
// for Python, and makes the plans).
//
// It keeps the documented contract more strictly than the real one, on the simulated CUDA driver (tests/cudasim): every
// breach ends the process. It computes by running the ONNX model that a plan names on ONNX Runtime's CPU provider, in
// the stream's order, on what then lies at the addresses. No number of its is one of a GPU.
#include <dlfcn.h>
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "nvinfer_stubs.hpp"

namespace {

using nvinfer1::Dims;
using nlohmann::json;

const std::string kMagic = "NOT A TENSORRT PLAN, BUT ONE OF tests/support/fake_tensorrt.py\n";
constexpr std::size_t kAlignment = 256, kScratchPerPixel = 16;
nvinfer1::ILogger* logger = nullptr;
std::atomic<int> live{0};

[[noreturn]] void breach(const std::string& what) {
  std::fprintf(stderr, "fake_nvinfer: BREACH OF CONTRACT: %s\n", what.c_str());
  std::_Exit(70);
}

bool refuse(const std::string& why) {
  logger->log(nvinfer1::ILogger::Severity::kERROR, why.c_str());
  return false;
}

// What a call is to return instead of what is right, from FAKE_TENSORRT_RETURNS=inferShapes=-1,enqueueV3=0 …
std::optional<int> told(const std::string& call) {
  const char* all = std::getenv("FAKE_TENSORRT_RETURNS");
  std::istringstream parts(all ? all : "");
  for (std::string part; std::getline(parts, part, ',');)
    if (part.compare(0, call.size() + 1, call + "=") == 0) {
      logger->log(nvinfer1::ILogger::Severity::kERROR, ("told to fail: " + part).c_str());
      return std::atoi(part.c_str() + call.size() + 1);
    }
  return std::nullopt;
}

template <typename F>
F entry(const char* name) {
  static void* driver = dlopen("libcuda.so.1", RTLD_NOW);
  void* found = driver ? dlsym(driver, name) : nullptr;
  if (!found) breach(std::string(name) + " is not in the driver: this double runs on tests/cudasim alone");
  return reinterpret_cast<F>(found);
}

void check_context(const std::string& what) {
  void* context = nullptr;
  if (entry<int (*)(void**)>("cuCtxGetCurrent")(&context) || !context) breach(what + " without a current CUDA context");
}

std::size_t bytes_from(std::uintptr_t address) {
  unsigned long long base = 0;
  std::size_t size = 0;
  if (entry<int (*)(unsigned long long*, std::size_t*, unsigned long long)>("cuMemGetAddressRange_v2")(&base, &size, address))
    return 0;
  return base + size - address;
}

std::uint8_t* host_of(std::uintptr_t address, std::size_t bytes, const std::string& what) {
  auto* found = entry<void* (*)(unsigned long long, std::size_t, const char*)>("cusim_host_address")(address, bytes, what.c_str());
  if (!found) breach(what + " is no device memory when the run reaches it");
  return static_cast<std::uint8_t*>(found);
}

struct Tensor {
  std::string name;
  ONNXTensorElementDataType type;
  std::vector<std::int64_t> shape;
  std::vector<std::string> dims;  // names of those that are not fixed
};

std::size_t width_of(ONNXTensorElementDataType type) { return type == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 ? 1 : 4; }

using Shapes = std::map<std::string, std::vector<std::int64_t>>;

struct Model {
  Ort::Env env{ORT_LOGGING_LEVEL_FATAL, "fake_nvinfer"};
  Ort::Session session{nullptr};
  std::vector<Tensor> inputs, outputs;
  json profiles, activation_bytes;

  explicit Model(const json& plan) : profiles(plan.at("profiles")), activation_bytes(plan.at("activation_bytes")) {
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(1);
    session = Ort::Session(env, plan.at("onnx").get<std::string>().c_str(), options);
    Ort::AllocatorWithDefaultOptions allocator;
    const auto described = [&](Ort::AllocatedStringPtr name, const Ort::TypeInfo& info) {
      const auto tensor = info.GetTensorTypeAndShapeInfo();
      std::vector<const char*> dims(tensor.GetDimensionsCount());
      tensor.GetSymbolicDimensions(dims.data(), dims.size());
      return Tensor{name.get(), tensor.GetElementType(), tensor.GetShape(), {dims.begin(), dims.end()}};
    };
    for (std::size_t i = 0; i < session.GetInputCount(); ++i)
      inputs.push_back(described(session.GetInputNameAllocated(i, allocator), session.GetInputTypeInfo(i)));
    for (std::size_t i = 0; i < session.GetOutputCount(); ++i)
      outputs.push_back(described(session.GetOutputNameAllocated(i, allocator), session.GetOutputTypeInfo(i)));
  }

  const Tensor* find(const std::string& name) const {
    for (const auto* all : {&inputs, &outputs})
      for (const Tensor& tensor : *all)
        if (tensor.name == name) return &tensor;
    return nullptr;
  }
  // Of all outputs for inputs of these shapes, found by a run on zeros, once.
  const Shapes& output_shapes(const Shapes& given) {
    auto& found = known_[given];
    if (!found.empty()) return found;
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    std::vector<std::vector<std::uint8_t>> zeros;
    std::vector<const char*> names, wanted;
    std::vector<Ort::Value> values;
    for (const Tensor& input : inputs) {
      const auto& shape = given.at(input.name);
      std::size_t bytes = width_of(input.type);
      for (const std::int64_t side : shape) bytes *= static_cast<std::size_t>(side);
      zeros.emplace_back(bytes);
      names.push_back(input.name.c_str());
      values.push_back(Ort::Value::CreateTensor(memory, zeros.back().data(), bytes, shape.data(), shape.size(), input.type));
    }
    for (const Tensor& output : outputs) wanted.push_back(output.name.c_str());
    const auto results =
        session.Run(Ort::RunOptions{nullptr}, names.data(), values.data(), values.size(), wanted.data(), wanted.size());
    for (std::size_t i = 0; i < outputs.size(); ++i)
      found[outputs[i].name] = results[i].GetTensorTypeAndShapeInfo().GetShape();
    return found;
  }

  // Dimensions of one name are one size: TensorRT refuses others, or reads beyond the smaller.
  void check_names(const Shapes& given) const {
    std::map<std::string, std::int64_t> sizes;
    for (const Tensor& input : inputs)
      for (std::size_t i = 0; i < input.dims.size(); ++i) {
        if (input.dims[i].empty()) continue;
        const std::int64_t size = given.at(input.name)[i];
        if (sizes.emplace(input.dims[i], size).first->second != size) breach(input.dims[i] + " has two sizes");
      }
  }

  bool is_input(const std::string& name) const {
    return std::any_of(inputs.begin(), inputs.end(), [&](const Tensor& each) { return each.name == name; });
  }

 private:
  std::map<Shapes, Shapes> known_;
};

struct Place {
  Tensor tensor;  // with the shape of this run
  std::uintptr_t address;
  std::size_t bytes;
};

struct Work {
  std::shared_ptr<Model> model;
  std::vector<Place> inputs, outputs;
  std::uintptr_t scratch;
  std::size_t scratch_bytes;
  std::shared_ptr<std::atomic<int>> in_flight;

  void run() {
    std::memset(host_of(scratch, scratch_bytes, "activations"), 0xFF, scratch_bytes);
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    std::vector<const char*> names, wanted;
    std::vector<Ort::Value> values;
    for (Place& place : inputs) {
      names.push_back(place.tensor.name.c_str());
      values.push_back(Ort::Value::CreateTensor(memory, host_of(place.address, place.bytes, place.tensor.name), place.bytes,
                                                place.tensor.shape.data(), place.tensor.shape.size(), place.tensor.type));
    }
    for (Place& place : outputs) wanted.push_back(place.tensor.name.c_str());
    const auto results = model->session.Run(Ort::RunOptions{nullptr}, names.data(), values.data(), values.size(),
                                            wanted.data(), wanted.size());
    for (std::size_t i = 0; i < outputs.size(); ++i)
      std::memcpy(host_of(outputs[i].address, outputs[i].bytes, outputs[i].tensor.name),
                  results[i].GetTensorRawData(), outputs[i].bytes);
    --*in_flight;
  }
  static void reached(void* self) {
    const std::unique_ptr<Work> work(static_cast<Work*>(self));
    try {
      work->run();
    } catch (const std::exception& error) {
      breach(std::string("the model failed: ") + error.what());
    }
  }
};

class Context final : public nvinfer1::StubVExecutionContext {
 public:
  explicit Context(std::shared_ptr<Model> model) : model_(std::move(model)) { ++live; }
  ~Context() noexcept override {
    int version = 0;  // which a lost device does not tell
    if (*in_flight_ && !entry<int (*)(int*)>("cuDriverGetVersion")(&version)) breach("a context destroyed while its work is on the device");
    --live;
  }
  bool setOptimizationProfileAsync(std::int32_t profile, cudaStream_t stream) noexcept override {
    if (const auto value = told("setOptimizationProfileAsync")) return *value;
    if (profile < 0 || static_cast<std::size_t>(profile) >= model_->profiles.size()) return refuse("no such profile");
    profile_ = profile;
    stream_ = stream;
    shapes_.clear();
    return true;
  }
  bool setInputShape(const char* name, const Dims& dims) noexcept override {
    if (const auto value = told("setInputShape")) return *value;
    if (profile_ < 0) breach("an input's shape before a profile is chosen");
    if (!model_->is_input(name)) return refuse(std::string("no input ") + name);
    const json& range = model_->profiles[static_cast<std::size_t>(profile_)].at(name);
    const std::vector<std::int64_t> shape(dims.d, dims.d + dims.nbDims);
    bool fits = shape.size() == range[0].size();
    for (std::size_t i = 0; fits && i < shape.size(); ++i)
      fits = range[0][i].get<std::int64_t>() <= shape[i] && shape[i] <= range[2][i].get<std::int64_t>();
    if (!fits) return refuse(std::string("setInputShape: ") + name + " does not satisfy the profile");
    if (shapes_[name] != shape) sized_ = false;
    shapes_[name] = shape;
    return true;
  }
  std::int32_t inferShapes(std::int32_t, const char**) noexcept override {
    if (const auto value = told("inferShapes")) return *value;
    const auto missing = static_cast<std::int32_t>(model_->inputs.size() - shapes_.size());
    if (!missing) model_->check_names(shapes_);
    return missing;
  }
  Dims getTensorShape(const char* name) const noexcept override {
    if (shapes_.size() != model_->inputs.size()) breach("the shape of an output before all inputs have theirs");
    const auto shape = shape_of(*model_->find(name));
    Dims dims{};
    dims.nbDims = static_cast<std::int32_t>(shape.size());
    std::copy(shape.begin(), shape.end(), dims.d);
    if (const auto value = told("getTensorShape")) dims.d[0] = *value;
    return dims;
  }
  std::size_t updateDeviceMemorySizeForShapes() noexcept override {
    if (const auto value = told("updateDeviceMemorySizeForShapes")) return static_cast<std::size_t>(*value);
    if (shapes_.size() != model_->inputs.size()) breach("the size of activations before all inputs have their shapes");
    sized_ = true;
    return scratch_needed();
  }
  void setDeviceMemoryV2(void* memory, std::int64_t size) noexcept override {
    scratch_ = reinterpret_cast<std::uintptr_t>(memory);
    scratch_bytes_ = static_cast<std::size_t>(size);
    if (scratch_ % kAlignment) breach("activations that are not aligned");
    if (bytes_from(scratch_) < scratch_bytes_) breach("activations larger than the driver knows");
  }
  bool setTensorAddress(const char* name, void* data) noexcept override {
    if (const auto value = told("setTensorAddress")) return *value;
    if (!model_->find(name)) return refuse(std::string("no tensor ") + name);
    addresses_[name] = reinterpret_cast<std::uintptr_t>(data);
    if (addresses_[name] % kAlignment) breach(std::string(name) + " is not aligned");
    return true;
  }
  bool enqueueV3(cudaStream_t stream) noexcept override {
    if (const auto value = told("enqueueV3")) return *value;
    check_context("enqueueV3");
    if (!stream || stream != stream_) breach("a run on another stream than that on which the profile was chosen");
    if (shapes_.size() != model_->inputs.size()) breach("a run without the shapes of all inputs");
    if (!sized_ || scratch_bytes_ < scratch_needed()) breach("a run with too few bytes of activations");
    auto work = std::make_unique<Work>();
    work->model = model_;
    work->scratch = scratch_;
    work->scratch_bytes = scratch_needed();
    work->in_flight = in_flight_;
    for (const Tensor& tensor : model_->inputs) work->inputs.push_back(place(tensor));
    for (const Tensor& tensor : model_->outputs) work->outputs.push_back(place(tensor));
    ++*in_flight_;
    if (entry<int (*)(void*, void (*)(void*), void*)>("cuLaunchHostFunc")(stream, Work::reached, work.get())) {
      --*in_flight_;
      return refuse("launch failed");
    }
    work.release();
    return true;
  }

 private:
  std::vector<std::int64_t> shape_of(const Tensor& tensor) const {
    const auto given = shapes_.find(tensor.name);
    if (given != shapes_.end()) return given->second;
    return model_->output_shapes(shapes_).at(tensor.name);
  }
  Place place(const Tensor& tensor) const {
    Place found{tensor, 0, width_of(tensor.type)};
    found.tensor.shape = shape_of(tensor);
    for (const std::int64_t side : found.tensor.shape) found.bytes *= static_cast<std::size_t>(side);
    const auto address = addresses_.find(tensor.name);
    if (address == addresses_.end()) breach("a run without an address for " + tensor.name);
    found.address = address->second;
    if (bytes_from(found.address) < found.bytes) breach(tensor.name + " needs more bytes than the driver knows there");
    return found;
  }
  // By the real builder's log where the plan has it, in the share that these shapes are of the largest.
  std::size_t scratch_needed() const {
    Shapes largest;
    const json& profile = model_->profiles[static_cast<std::size_t>(profile_)];
    for (const Tensor& input : model_->inputs) largest[input.name] = profile.at(input.name)[2].get<std::vector<std::int64_t>>();
    const json& known = model_->activation_bytes[static_cast<std::size_t>(profile_)];
    if (known.is_null()) return kScratchPerPixel * pixels_of(shapes_);
    const auto most = pixels_of(largest);
    return (known.get<std::size_t>() * pixels_of(shapes_) + most - 1) / most;
  }
  static std::size_t pixels_of(const Shapes& shapes) {
    std::size_t pixels = 1;
    if (shapes.count("rows")) return static_cast<std::size_t>(shapes.at("rows")[0] * shapes.at("rows")[1] * shapes.at("cols")[1]);
    for (const std::int64_t side : shapes.begin()->second) pixels *= static_cast<std::size_t>(side);
    return pixels;
  }

  std::shared_ptr<Model> model_;
  std::int32_t profile_ = -1;
  cudaStream_t stream_ = nullptr;
  Shapes shapes_;
  std::map<std::string, std::uintptr_t> addresses_;
  bool sized_ = false;
  std::uintptr_t scratch_ = 0;
  std::size_t scratch_bytes_ = 0;
  std::shared_ptr<std::atomic<int>> in_flight_ = std::make_shared<std::atomic<int>>(0);
};

// What a program holds: TensorRT's own class, whose calls go to the double.
template <typename Public, typename Private>
class Shown final : public Public {
 public:
  template <typename... Arguments>
  explicit Shown(Arguments&&... arguments) : own_(std::forward<Arguments>(arguments)...) {
    this->mImpl = &own_;
  }

 private:
  Private own_;
};

class Engine final : public nvinfer1::StubVCudaEngine {
 public:
  explicit Engine(const json& plan) : model_(std::make_shared<Model>(plan)) { ++live; }
  ~Engine() noexcept override { --live; }
  std::int32_t getNbOptimizationProfiles() const noexcept override { return static_cast<std::int32_t>(model_->profiles.size()); }
  std::int32_t getNbIOTensors() const noexcept override {
    return static_cast<std::int32_t>(model_->inputs.size() + model_->outputs.size());
  }
  const char* getIOTensorName(std::int32_t index) const noexcept override {
    const auto i = static_cast<std::size_t>(index);
    return i < model_->inputs.size() ? model_->inputs[i].name.c_str() : model_->outputs[i - model_->inputs.size()].name.c_str();
  }
  nvinfer1::TensorIOMode getTensorIOMode(const char* name) const noexcept override {
    return model_->is_input(name) ? nvinfer1::TensorIOMode::kINPUT : nvinfer1::TensorIOMode::kOUTPUT;
  }
  nvinfer1::TensorLocation getTensorLocation(const char*) const noexcept override {
    return static_cast<nvinfer1::TensorLocation>(told("getTensorLocation").value_or(0));  // 1: on the host
  }
  nvinfer1::DataType getTensorDataType(const char* name) const noexcept override {
    switch (model_->find(name)->type) {
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8:
        return nvinfer1::DataType::kUINT8;
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32:
        return nvinfer1::DataType::kINT32;
      default:
        return nvinfer1::DataType::kFLOAT;
    }
  }
  nvinfer1::Dims getTensorShape(const char* name) const noexcept override {
    const auto& shape = model_->find(name)->shape;  // -1 where it is not fixed
    nvinfer1::Dims dims{};
    dims.nbDims = static_cast<std::int32_t>(shape.size());
    std::copy(shape.begin(), shape.end(), dims.d);
    return dims;
  }
  nvinfer1::IExecutionContext* createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy how) noexcept override {
    if (told("createExecutionContext")) return nullptr;
    check_context("createExecutionContext");
    if (how != nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED)
      breach("a context that allocates by itself: for the largest shapes of all profiles");
    return new Shown<nvinfer1::IExecutionContext, Context>(model_);
  }

 private:
  std::shared_ptr<Model> model_;
};

class Runtime final : public nvinfer1::StubVRuntime {
 public:
  Runtime() { ++live; }
  ~Runtime() noexcept override { --live; }
  nvinfer1::ICudaEngine* deserializeCudaEngine(const void* blob, std::size_t size) noexcept override {
    check_context("deserializeCudaEngine");
    const std::string plan(static_cast<const char*>(blob), size);
    if (plan.compare(0, kMagic.size(), kMagic) != 0) {
      refuse("Serialization assertion failed.\nMagic tag does not match");
      return nullptr;
    }
    const json content = json::parse(plan.substr(kMagic.size()));
    const bool host_code = content.at("host_code").get<bool>();
    if (host_code && !host_code_allowed_) {
      refuse("Cannot deserialize engine with lean runtime since IRuntime::getEngineHostCodeAllowed() is false.");
      return nullptr;
    }
    if (host_code_allowed_ && !host_code) breach("host code allowed for a plan that has none");
    return new Shown<nvinfer1::ICudaEngine, Engine>(content);
  }
  void setEngineHostCodeAllowed(bool allowed) noexcept override { host_code_allowed_ = allowed; }
  bool getEngineHostCodeAllowed() const noexcept override { return host_code_allowed_; }

 private:
  bool host_code_allowed_ = false;
};

struct AtEnd {
  ~AtEnd() {
    if (live) breach(std::to_string(live) + " objects were not given back");
  }
} at_end;

}  // namespace

extern "C" {
void* createInferRuntime_INTERNAL(void* own_logger, std::int32_t version) noexcept {
  if (version != NV_TENSORRT_VERSION) breach("another version of the headers");
  check_context("createInferRuntime");
  logger = static_cast<nvinfer1::ILogger*>(own_logger);
  return new Shown<nvinfer1::IRuntime, Runtime>();
}
std::int32_t getInferLibVersion() noexcept { return NV_TENSORRT_VERSION; }
std::int32_t getInferLibBuildVersion() noexcept { return NV_TENSORRT_BUILD; }
}
