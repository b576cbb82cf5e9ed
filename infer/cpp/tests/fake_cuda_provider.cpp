// NOT a GPU: a double of ONNX Runtime's CUDA provider for tests, put before the real library by LD_PRELOAD.
//
// It prints the options that a program gives the provider, and the session then runs on the CPU. The older structure of
// options, in which nothing can be said of TF32, ends the process.
#include <dlfcn.h>
#include <onnxruntime_c_api.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace {

OrtStatus* create(OrtCUDAProviderOptionsV2** options) noexcept {
  static char only = 0;
  *options = reinterpret_cast<OrtCUDAProviderOptionsV2*>(&only);
  return nullptr;
}
OrtStatus* update(OrtCUDAProviderOptionsV2*, const char* const* names, const char* const* values, std::size_t count) noexcept {
  for (std::size_t i = 0; i < count; ++i) std::fprintf(stderr, "fake_cuda_provider: %s=%s\n", names[i], values[i]);
  return nullptr;
}
OrtStatus* append(OrtSessionOptions*, const OrtCUDAProviderOptionsV2*) noexcept { return nullptr; }
OrtStatus* append_old(OrtSessionOptions*, const OrtCUDAProviderOptions*) noexcept {
  std::fprintf(stderr, "fake_cuda_provider: BREACH OF CONTRACT: options that leave TF32 on\n");
  std::_Exit(70);
}
void release(OrtCUDAProviderOptionsV2*) noexcept {}

const OrtApi* api_of(std::uint32_t version) noexcept {
  using Base = const OrtApiBase* (*)();
  static OrtApi api = *reinterpret_cast<Base>(dlsym(RTLD_NEXT, "OrtGetApiBase"))()->GetApi(version);
  api.CreateCUDAProviderOptions = create;
  api.UpdateCUDAProviderOptions = update;
  api.SessionOptionsAppendExecutionProvider_CUDA_V2 = append;
  api.SessionOptionsAppendExecutionProvider_CUDA = append_old;
  api.ReleaseCUDAProviderOptions = release;
  return &api;
}

const char* version() noexcept { return "fake_cuda_provider"; }

}  // namespace

extern "C" const OrtApiBase* OrtGetApiBase() noexcept {
  static const OrtApiBase base{api_of, version};
  return &base;
}
