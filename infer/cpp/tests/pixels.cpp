// For Python's tests: height, width and a digest of the pixels of each file named, or why it cannot be decoded.
#include <cinttypes>
#include <cstdio>
#include <cstring>

#include "verydeep/verydeep.hpp"

int main(int argc, char** argv) {
  const bool apply_exif = argc > 1 && std::strcmp(argv[1], "--exif") == 0;
  for (int i = apply_exif ? 2 : 1; i < argc; ++i) {
    try {
      const verydeep::DecodedImage image = verydeep::decode_file(argv[i], apply_exif);
      std::uint64_t digest = 0xCBF29CE484222325u;  // FNV-1a
      for (const std::uint8_t value : image.pixels) digest = (digest ^ value) * 0x100000001B3u;
      std::printf("%d %d %016" PRIx64 "\n", image.height, image.width, digest);
    } catch (const verydeep::Error& error) {
      std::printf("%s\n", error.what());
    }
  }
}
