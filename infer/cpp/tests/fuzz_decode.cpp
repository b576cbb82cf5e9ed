// libFuzzer: any bytes are an image or one line of an error. tests/fuzz.sh builds and runs it.
#include <cstdlib>
#include <cstring>

#include "verydeep/verydeep.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const verydeep::DecodedImage image = verydeep::decode(data, size, true);
    if (image.height < 1 || image.width < 1 ||
        image.pixels.size() != static_cast<std::size_t>(3) * image.height * image.width)
      std::abort();
  } catch (const verydeep::Error& error) {
    if (size && error.code() != verydeep::ErrorCode::unreadable_image) std::abort();
    if (std::strchr(error.what(), '\n')) std::abort();
  }
  return 0;
}
