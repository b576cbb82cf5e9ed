// The little that is needed of CUDA's driver, loaded when the first engine wants it: a library that is linked with it
// does not start on a machine without a GPU. Errors are Error, with the driver's own words.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

extern "C" {
struct CUctx_st;
struct CUstream_st;
}

namespace verydeep {

using DevicePointer = unsigned long long;

// The primary context of a GPU, which is the runtime API's and TensorRT's, too. It stays until the process ends.
class CudaDevice {
 public:
  explicit CudaDevice(int ordinal);  // raises Error (unusable_engine) without a driver or such a GPU
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;

  const std::string& name() const { return name_; }
  const std::string& target() const { return target_; }  // compute capability: sm86

  // Makes the context the thread's current one while it lives. Everything below wants that.
  class Current {
   public:
    explicit Current(const CudaDevice& device);
    ~Current();
    Current(const Current&) = delete;
    Current& operator=(const Current&) = delete;
  };

 private:
  int device_ = 0;
  CUctx_st* context_ = nullptr;
  std::string name_, target_;
};

class CudaStream {
 public:
  CudaStream();
  ~CudaStream();
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;

  CUstream_st* get() const { return stream_; }
  void copy_in(DevicePointer to, const void* from, std::size_t size);  // `from` and `to` of pinned memory
  void copy_out(void* to, DevicePointer from, std::size_t size);
  void synchronize();

 private:
  CUstream_st* stream_ = nullptr;
};

// Memory that grows and never shrinks; what it held is lost when it grows, so nothing may be using it then.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  ~DeviceMemory() { release(); }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  DevicePointer at_least(std::size_t size);
  void release();
  std::size_t size() const { return size_; }

 private:
  DevicePointer pointer_ = 0;
  std::size_t size_ = 0;
};

class PinnedMemory {
 public:
  PinnedMemory() = default;
  ~PinnedMemory() { release(); }
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;

  std::uint8_t* at_least(std::size_t size);
  void release();

 private:
  void* pointer_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace verydeep
