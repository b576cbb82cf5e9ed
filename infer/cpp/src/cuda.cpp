#include "cuda.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <map>
#include <mutex>

#include "verydeep/verydeep.hpp"

namespace verydeep {
namespace {

constexpr int kMajor = 75, kMinor = 76;  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
constexpr unsigned kNonBlocking = 1;     // CU_STREAM_NON_BLOCKING

// The driver's entries, by the names of its ABI.
struct Driver {
  int (*init)(unsigned);
  int (*device)(int*, int);
  int (*name)(char*, int, int);
  int (*attribute)(int*, int, int);
  int (*retain)(CUctx_st**, int);
  int (*push)(CUctx_st*);
  int (*pop)(CUctx_st**);
  int (*allocate)(DevicePointer*, std::size_t);
  int (*free)(DevicePointer);
  int (*pin)(void**, std::size_t, unsigned);
  int (*unpin)(void*);
  int (*stream)(CUstream_st**, unsigned);
  int (*destroy)(CUstream_st*);
  int (*copy_in)(DevicePointer, const void*, std::size_t, CUstream_st*);
  int (*copy_out)(void*, DevicePointer, std::size_t, CUstream_st*);
  int (*synchronize)(CUstream_st*);
  int (*error)(int, const char**);
};

[[noreturn]] void no_driver(const std::string& why) {
  throw Error(ErrorCode::unusable_engine, "no NVIDIA driver (" + why + "): use the .onnx beside the engine, or a machine "
                                          "with an NVIDIA GPU");
}

Driver load() {
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library) no_driver(dlerror());
  const auto entry = [&](const char* name, auto& pointer) {
    void* found = dlsym(library, name);
    if (!found) no_driver(std::string(name) + " is missing");
    pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(found);
  };
  Driver driver{};
  entry("cuInit", driver.init);
  entry("cuDeviceGet", driver.device);
  entry("cuDeviceGetName", driver.name);
  entry("cuDeviceGetAttribute", driver.attribute);
  entry("cuDevicePrimaryCtxRetain", driver.retain);
  entry("cuCtxPushCurrent_v2", driver.push);
  entry("cuCtxPopCurrent_v2", driver.pop);
  entry("cuMemAlloc_v2", driver.allocate);
  entry("cuMemFree_v2", driver.free);
  entry("cuMemHostAlloc", driver.pin);
  entry("cuMemFreeHost", driver.unpin);
  entry("cuStreamCreate", driver.stream);
  entry("cuStreamDestroy_v2", driver.destroy);
  entry("cuMemcpyHtoDAsync_v2", driver.copy_in);
  entry("cuMemcpyDtoHAsync_v2", driver.copy_out);
  entry("cuStreamSynchronize", driver.synchronize);
  entry("cuGetErrorString", driver.error);
  return driver;
}

const Driver& driver() {
  static const Driver loaded = load();
  return loaded;
}

void must(int code, const char* call, ErrorCode kind = ErrorCode::runtime_failure) {
  if (!code) return;
  const char* words = nullptr;
  driver().error(code, &words);
  throw Error(kind, std::string(call) + " failed: " + (words ? words : "unknown error") +
                        ": nvidia-smi shows the GPU's state");
}

std::size_t rounded(std::size_t size) {
  std::size_t step = 1 << 16;
  while (step < size) step *= 2;
  return step < (1u << 26) ? step : (size + (1u << 24) - 1) >> 24 << 24;
}

// The primary context, retained once and until the process ends. Were it given back with the last classifier, all that
// TensorRT's library keeps in it for the next one would be gone. Raises Error.
CUctx_st* primary_context(int device) {
  static std::mutex busy;
  static std::map<int, CUctx_st*> known;
  const std::lock_guard<std::mutex> lock(busy);
  CUctx_st*& context = known[device];
  if (!context) must(driver().retain(&context, device), "cuDevicePrimaryCtxRetain", ErrorCode::unusable_engine);
  return context;
}

}  // namespace

CudaDevice::CudaDevice(int ordinal) {
  const auto kind = ErrorCode::unusable_engine;
  must(driver().init(0), "cuInit", kind);
  must(driver().device(&device_, ordinal), ("cuDeviceGet " + std::to_string(ordinal)).c_str(), kind);
  char name[256] = "";
  must(driver().name(name, sizeof name, device_), "cuDeviceGetName", kind);
  int major = 0, minor = 0;
  must(driver().attribute(&major, kMajor, device_), "cuDeviceGetAttribute", kind);
  must(driver().attribute(&minor, kMinor, device_), "cuDeviceGetAttribute", kind);
  name_ = name;
  target_ = "sm" + std::to_string(major) + std::to_string(minor);
  context_ = primary_context(device_);
}

CudaDevice::Current::Current(const CudaDevice& device) { must(driver().push(device.context_), "cuCtxPushCurrent"); }

CudaDevice::Current::~Current() {
  CUctx_st* popped = nullptr;
  driver().pop(&popped);
}

CudaStream::CudaStream() { must(driver().stream(&stream_, kNonBlocking), "cuStreamCreate"); }
CudaStream::~CudaStream() { driver().destroy(stream_); }

void CudaStream::copy_in(DevicePointer to, const void* from, std::size_t size) {
  must(driver().copy_in(to, from, size, stream_), "cuMemcpyHtoDAsync");
}

void CudaStream::copy_out(void* to, DevicePointer from, std::size_t size) {
  must(driver().copy_out(to, from, size, stream_), "cuMemcpyDtoHAsync");
}

void CudaStream::synchronize() { must(driver().synchronize(stream_), "cuStreamSynchronize"); }

void DeviceMemory::release() {
  if (pointer_) driver().free(pointer_);
  pointer_ = 0;
  size_ = 0;
}

DevicePointer DeviceMemory::at_least(std::size_t size) {
  if (size <= size_) return pointer_;
  const std::size_t wanted = rounded(size);
  release();
  must(driver().allocate(&pointer_, wanted), ("cuMemAlloc of " + std::to_string(wanted >> 20) + " MB").c_str());
  size_ = wanted;
  return pointer_;
}

void PinnedMemory::release() {
  if (pointer_) driver().unpin(pointer_);
  pointer_ = nullptr;
  size_ = 0;
}

std::uint8_t* PinnedMemory::at_least(std::size_t size) {
  if (size > size_) {
    const std::size_t wanted = rounded(size);
    release();
    must(driver().pin(&pointer_, wanted, 0), "cuMemHostAlloc");
    size_ = wanted;
  }
  return static_cast<std::uint8_t*>(pointer_);
}

}  // namespace verydeep
