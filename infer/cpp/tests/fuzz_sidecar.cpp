// libFuzzer: what a damaged model.engine.json says of a plan. tests/fuzz.sh builds and runs it.
#include <cstdlib>

#include "sidecar.hpp"
#include "verydeep/verydeep.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace verydeep;
  try {
    const Sidecar sidecar = parse_sidecar("model.engine", std::string(reinterpret_cast<const char*>(data), size));
    check_version(sidecar, "10.14.1.48");
    check_target(sidecar, "sm86", "a GPU");
  } catch (const Error& error) {
    const std::string text = error.what();
    if (text.empty() || text.find('\n') != std::string::npos) std::abort();
  }
  return 0;
}
