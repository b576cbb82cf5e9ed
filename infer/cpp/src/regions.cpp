#include "regions.hpp"

#include <algorithm>
#include <cmath>

namespace verydeep {
namespace {

// Width of the picture and context on each side of a region in the crop, for a crop of kOfCropPx (R-CNN's).
constexpr int kPicturePx = 500, kContextPx = 16, kOfCropPx = 224;
constexpr int kLongest = 4;  // times as high as wide: a higher image's picture is less wide

// Of a number of pixels for a crop of kOfCropPx; halves to even, as Python rounds.
int scaled(int px, const ModelSpec& spec) {
  return static_cast<int>(std::nearbyint(static_cast<double>(static_cast<std::int64_t>(px) * spec.crop_px) / kOfCropPx));
}

struct Axis {
  int start = 0, length = 0;   // in the picture
  int place = 0, resized = 0;  // in the crop
};

// One axis of a region for a box from `first` to `last`. What shows more than the box by `context` pixels of the crop on
// either side is cut off at the picture's ends.
Axis warp(double first, double last, int image, int picture, int crop, int context) {
  const double scale = static_cast<double>(picture) / image;
  const double begin = std::max(0.0, first - 1) * scale, end = std::min(static_cast<double>(image), last) * scale;
  if (!(begin < end))
    throw Error(ErrorCode::invalid_argument, "a box from " + std::to_string(first) + " to " + std::to_string(last) +
                                                 " of an image with " + std::to_string(image) +
                                                 " px: expected one with a part in the image");
  const double center = (begin + end) / 2, half = (end - begin) / 2 * crop / (crop - 2 * context);
  std::int64_t begin_px = static_cast<std::int64_t>(std::floor(center - half + 0.5));
  std::int64_t end_px = static_cast<std::int64_t>(std::floor(center + half + 0.5));
  begin_px = std::min<std::int64_t>(begin_px, picture - 1);
  end_px = std::max<std::int64_t>({end_px, begin_px + 1, 1});

  // its part in the picture, and where that lies in the crop
  const std::int64_t length = end_px - begin_px;
  const std::int64_t start = std::max<std::int64_t>(begin_px, 0), stop = std::min<std::int64_t>(end_px, picture);
  const auto at = [&](std::int64_t px) { return ((px - begin_px) * crop * 2 + length) / (2 * length); };
  const std::int64_t place = std::min<std::int64_t>(at(start), crop - 1), behind = std::max(at(stop), place + 1);
  return {static_cast<int>(start), static_cast<int>(stop - start), static_cast<int>(place),
          static_cast<int>(behind - place)};
}

}  // namespace

Size picture_px(Size image, const ModelSpec& spec) {
  const std::int64_t width_px = std::max(1, scaled(kPicturePx, spec)), most = kLongest * width_px;
  const std::int64_t height = image.height, width = image.width;
  const std::int64_t high = (height * width_px * 2 + width) / (2 * width);
  if (high <= most) return {static_cast<int>(std::max<std::int64_t>(1, high)), static_cast<int>(width_px)};
  const std::int64_t narrow = (width * most * 2 + height) / (2 * height);
  return {static_cast<int>(most), static_cast<int>(std::max<std::int64_t>(1, narrow))};
}

Pixels make_picture(const Pixels& image, const ModelSpec& spec) {
  const Size size = picture_px({image.height, image.width}, spec);
  const Pixels resized = resize(image, size.height, size.width, spec.preprocessing.filter);
  Pixels picture{size.height + 1, size.width + 1, {}};
  picture.values.resize(static_cast<std::size_t>(3) * picture.height * picture.width);
  for (int y = 0; y < picture.height; ++y)
    for (int x = 0; x < picture.width; ++x) {
      const bool is_frame = y == size.height || x == size.width;
      std::copy_n(is_frame ? spec.preprocessing.mean_colour.data() : resized.at(y, x), 3, picture.at(y, x));
    }
  return picture;
}

bool lies_in(const Rectangle& box, Size image) {
  const double left = box.xmin - 1, top = box.ymin - 1;
  if (!std::isfinite(left) || !std::isfinite(top) || !std::isfinite(box.xmax) || !std::isfinite(box.ymax)) return false;
  return left < box.xmax && top < box.ymax && left < image.width && top < image.height && box.xmax > 0 && box.ymax > 0;
}

std::vector<View> plan_regions(const std::vector<Rectangle>& boxes, Size image, const ModelSpec& spec) {
  const Size picture = picture_px(image, spec);
  const int context = scaled(kContextPx, spec), crop = spec.crop_px;
  std::vector<View> views;
  for (const Rectangle& box : boxes) {
    const Axis across = warp(box.xmin, box.xmax, image.width, picture.width, crop, context);
    const Axis down = warp(box.ymin, box.ymax, image.height, picture.height, crop, context);
    View view{kAsLoaded, {down.start, across.start, down.length, across.length}, crop};
    const Box inner{down.place, across.place, down.resized, across.resized};
    if (inner != Box{0, 0, crop, crop}) view.inner = inner;
    views.push_back(view);
  }
  return views;
}

std::vector<View> plan_whole(Size image, const ModelSpec& spec) {
  const Size picture = picture_px(image, spec);
  return {View{kAsLoaded, {0, 0, picture.height, picture.width}, spec.crop_px}};
}

}  // namespace verydeep
