// JPEG and PNG to RGB, by the rules of docs/data.md: the same pixels as Python's decoder.
#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "taps.hpp"
#include "verydeep/verydeep.hpp"

#ifdef VERYDEEP_DECODE
#include <jerror.h>
#include <jpeglib.h>
#include <png.h>
#endif

namespace verydeep {

#ifndef VERYDEEP_DECODE
DecodedImage decode(const void*, std::size_t, bool) {
  throw Error(ErrorCode::unreadable_image, "this library was built without decoders: pass pixels");
}
#else
namespace {

constexpr std::int64_t kLargestPixels = 100'000'000;

[[noreturn]] void refuse(const std::string& why) { throw Error(ErrorCode::unreadable_image, "image: " + why); }

void check_size(std::int64_t height, std::int64_t width, const char* kind) {
  if (height <= 0 || width <= 0) refuse(std::string("truncated or damaged ") + kind);
  if (height * width > kLargestPixels)
    refuse("is " + std::to_string(width) + "x" + std::to_string(height) + " px, more than the " +
           std::to_string(kLargestPixels) + " pixels we decode: make it smaller");
}

struct JpegErrors {
  jpeg_error_mgr base;  // first, so that libjpeg's pointer is ours
  std::jmp_buf out;
};

extern "C" void leave(j_common_ptr info) { std::longjmp(reinterpret_cast<JpegErrors*>(info->err)->out, 1); }

// Warnings are passed over, as everywhere, but for data that end early.
extern "C" void hear(j_common_ptr info, int level) {
  if (level < 0 && info->err->msg_code == JWRN_JPEG_EOF) leave(info);
}

// Two rows of a CMYK JPEG, taken as inverted: c * k / 255 in OpenCV's integers.
void cmyk_to_rgb(const std::uint8_t* from, std::uint8_t* to, int width) {
  for (int x = 0; x < width; ++x, from += 4, to += 3)
    for (int c = 0; c < 3; ++c) to[c] = static_cast<std::uint8_t>(from[3] - ((255 - from[c]) * from[3] >> 8));
}

int exif_orientation(const std::uint8_t* data, std::size_t size) {
  if (size < 14 || std::memcmp(data, "Exif\0\0", 6) != 0) return 1;
  data += 6;
  size -= 6;
  const bool little = data[0] == 'I';
  const auto u16 = [&](std::size_t at) {
    return little ? data[at] | data[at + 1] << 8 : data[at] << 8 | data[at + 1];
  };
  const auto u32 = [&](std::size_t at) {
    const auto low = static_cast<std::uint32_t>(u16(at)), high = static_cast<std::uint32_t>(u16(at + 2));
    return little ? low | high << 16 : low << 16 | high;
  };
  const std::size_t directory = u32(4);
  if (directory > size || size - directory < 2) return 1;
  const std::size_t entries = static_cast<std::size_t>(u16(directory));
  for (std::size_t i = 0; i < entries && directory + 2 + 12 * (i + 1) <= size; ++i) {
    const std::size_t entry = directory + 2 + 12 * i;
    if (u16(entry) == 0x0112) {
      const int value = u16(entry + 8);
      return value >= 1 && value <= 8 ? value : 1;
    }
  }
  return 1;
}

// EXIF 2.3, tag 0x0112: what the stored rows and columns are.
DecodedImage rotated(DecodedImage image, int orientation) {
  if (orientation == 1) return image;
  const bool swaps = orientation >= 5;
  DecodedImage turned{std::vector<std::uint8_t>(image.pixels.size()), swaps ? image.width : image.height,
                      swaps ? image.height : image.width};
  for (int y = 0; y < turned.height; ++y)
    for (int x = 0; x < turned.width; ++x) {
      int row = swaps ? x : y, column = swaps ? y : x;
      if (orientation == 3 || orientation == 4 || orientation == 7 || orientation == 8) {
        if (swaps) column = image.width - 1 - column;
        else row = image.height - 1 - row;
      }
      if (orientation == 2 || orientation == 3 || orientation == 6 || orientation == 7) {
        if (swaps) row = image.height - 1 - row;
        else column = image.width - 1 - column;
      }
      std::copy_n(&image.pixels[3 * (static_cast<std::size_t>(row) * image.width + column)], 3,
                  &turned.pixels[3 * (static_cast<std::size_t>(y) * turned.width + x)]);
    }
  return turned;
}

// Everything that longjmp may pass over lives outside of `read_jpeg`.
struct Jpeg {
  jpeg_decompress_struct info{};
  JpegErrors errors{};
  std::vector<std::uint8_t> row;
  DecodedImage image;
  int orientation = 1;

  Jpeg() {
    info.err = jpeg_std_error(&errors.base);
    errors.base.error_exit = leave;
    errors.base.emit_message = hear;
    jpeg_create_decompress(&info);
  }
  ~Jpeg() { jpeg_destroy_decompress(&info); }
  Jpeg(const Jpeg&) = delete;
  Jpeg& operator=(const Jpeg&) = delete;
};

bool begin_jpeg(Jpeg& jpeg, const void* data, std::size_t size) {
  if (setjmp(jpeg.errors.out)) return false;
  jpeg_mem_src(&jpeg.info, static_cast<const unsigned char*>(data), static_cast<unsigned long>(size));
  jpeg_save_markers(&jpeg.info, JPEG_APP0 + 1, 0xFFFF);
  jpeg_read_header(&jpeg.info, TRUE);
  jpeg.info.out_color_space = jpeg.info.num_components == 4 ? JCS_CMYK : JCS_RGB;
  return true;
}

bool read_jpeg(Jpeg& jpeg) {
  if (setjmp(jpeg.errors.out)) return false;
  jpeg_start_decompress(&jpeg.info);
  while (jpeg.info.output_scanline < jpeg.info.output_height) {
    std::uint8_t* out = &jpeg.image.pixels[static_cast<std::size_t>(3) * jpeg.image.width * jpeg.info.output_scanline];
    JSAMPROW row = jpeg.info.num_components == 4 ? jpeg.row.data() : out;
    jpeg_read_scanlines(&jpeg.info, &row, 1);
    if (jpeg.info.num_components == 4) cmyk_to_rgb(jpeg.row.data(), out, jpeg.image.width);
  }
  jpeg_finish_decompress(&jpeg.info);
  return true;
}

DecodedImage decode_jpeg(const void* data, std::size_t size, bool apply_exif) {
  Jpeg jpeg;
  if (!begin_jpeg(jpeg, data, size)) refuse("truncated or damaged JPEG");
  check_size(jpeg.info.image_height, jpeg.info.image_width, "JPEG");
  jpeg.image.height = static_cast<int>(jpeg.info.image_height);
  jpeg.image.width = static_cast<int>(jpeg.info.image_width);
  jpeg.image.pixels.resize(static_cast<std::size_t>(3) * jpeg.image.height * jpeg.image.width);
  jpeg.row.resize(static_cast<std::size_t>(4) * jpeg.image.width);
  for (auto* marker = jpeg.info.marker_list; apply_exif && marker; marker = marker->next)
    if (const int found = exif_orientation(marker->data, marker->data_length); found != 1) {
      jpeg.orientation = found;
      break;
    }
  if (!read_jpeg(jpeg)) refuse("truncated or damaged JPEG");
  return rotated(std::move(jpeg.image), jpeg.orientation);
}

struct PngSource {
  const std::uint8_t* data;
  std::size_t left;
};

extern "C" void feed_png(png_structp png, png_bytep to, png_size_t count) {
  auto& source = *static_cast<PngSource*>(png_get_io_ptr(png));
  if (count > source.left) png_error(png, "the data end");
  std::memcpy(to, source.data, count);
  source.data += count;
  source.left -= count;
}
extern "C" void png_leave(png_structp png, png_const_charp) { png_longjmp(png, 1); }
extern "C" void png_pass(png_structp, png_const_charp) {}

struct Png {
  png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, nullptr, png_leave, png_pass);
  png_infop info = png ? png_create_info_struct(png) : nullptr;
  PngSource source{};
  DecodedImage image;
  std::vector<png_bytep> rows;

  Png() = default;
  ~Png() { png_destroy_read_struct(&png, &info, nullptr); }
  Png(const Png&) = delete;
  Png& operator=(const Png&) = delete;
};

bool begin_png(Png& png) {
  if (setjmp(png_jmpbuf(png.png))) return false;
  png_set_read_fn(png.png, &png.source, feed_png);
  png_set_user_limits(png.png, 0x7fffffff, 0x7fffffff);  // our own limit counts pixels
  png_read_info(png.png, png.info);
  return true;
}

bool read_png(Png& png) {
  if (setjmp(png_jmpbuf(png.png))) return false;
  png_set_expand(png.png);  // palettes and small depths to 8 bits; transparent colours to alpha, which goes
  png_set_strip_16(png.png);
  png_set_gray_to_rgb(png.png);
  png_set_strip_alpha(png.png);
  png_set_interlace_handling(png.png);
  png_read_update_info(png.png, png.info);
  if (png_get_rowbytes(png.png, png.info) != static_cast<std::size_t>(3) * png.image.width)
    png_error(png.png, "not three channels");
  png_read_image(png.png, png.rows.data());
  png_read_end(png.png, nullptr);
  return true;
}

DecodedImage decode_png(const void* data, std::size_t size) {
  Png png;
  png.source = {static_cast<const std::uint8_t*>(data), size};
  if (!png.info) throw std::bad_alloc();
  if (!begin_png(png)) refuse("truncated or damaged PNG");
  const std::int64_t height = png_get_image_height(png.png, png.info), width = png_get_image_width(png.png, png.info);
  check_size(height, width, "PNG");
  png.image.height = static_cast<int>(height);
  png.image.width = static_cast<int>(width);
  png.image.pixels.resize(static_cast<std::size_t>(3) * png.image.height * png.image.width);
  for (int y = 0; y < png.image.height; ++y)
    png.rows.push_back(&png.image.pixels[static_cast<std::size_t>(3) * png.image.width * y]);
  if (!read_png(png)) refuse("truncated or damaged PNG");
  return std::move(png.image);
}

}  // namespace

DecodedImage decode(const void* data, std::size_t size, bool apply_exif) {
  const auto* bytes = static_cast<const std::uint8_t*>(data);
  if (!bytes && size) throw Error(ErrorCode::invalid_argument, "null data: expected an encoded image");
  if (!size) refuse("is empty (0 bytes)");
  if (size >= 3 && bytes[0] == 0xFF && bytes[1] == 0xD8 && bytes[2] == 0xFF) return decode_jpeg(data, size, apply_exif);
  if (size >= 8 && std::memcmp(bytes, "\x89PNG\r\n\x1a\n", 8) == 0) return decode_png(data, size);
  refuse("is neither a JPEG nor a PNG");
}
#endif

DecodedImage decode_file(const std::string& path, bool apply_exif) {
  constexpr std::streamoff kLargestBytes = std::streamoff{1} << 28;
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  const std::streamoff size = file ? static_cast<std::streamoff>(file.tellg()) : -1;
  if (size < 0 || size > kLargestBytes)
    throw Error(ErrorCode::unreadable_image, path + ": cannot be read, or is larger than 256 MiB");
  std::vector<char> data(static_cast<std::size_t>(size));
  file.seekg(0);
  if (!file.read(data.data(), size)) throw Error(ErrorCode::unreadable_image, path + ": cannot be read");
  try {
    return decode(data.data(), data.size(), apply_exif);
  } catch (const Error& error) {
    const std::string said = error.what();
    throw Error(error.code(), path + said.substr(said.find(':')));
  }
}

}  // namespace verydeep
