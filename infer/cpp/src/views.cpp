#include "views.hpp"

#include <algorithm>
#include <cstdint>
#include <set>

#include "verydeep/verydeep.hpp"

namespace verydeep {
namespace {

constexpr int kMinSourcePx = 8;

std::string text(Size size) { return std::to_string(size.height) + "x" + std::to_string(size.width); }

// torchvision rounds the half offset to even.
int center_offset(int side, int crop, bool torchvision) {
  const int difference = side - crop;
  if (!torchvision || difference % 2 == 0) return difference / 2;
  const int down = (difference - 1) / 2;
  return down + (down % 2 != 0);
}

View crop(int q, int top, int left, const ModelSpec& spec) { return {q, {top, left, spec.crop_px, spec.crop_px}}; }

View center(Size size, int q, const ModelSpec& spec) {
  const bool torchvision = spec.preprocessing.torchvision_center;
  return crop(q, center_offset(size.height, spec.crop_px, torchvision),
              center_offset(size.width, spec.crop_px, torchvision), spec);
}

std::vector<View> corners_and_center(Size size, int q, const ModelSpec& spec) {
  std::vector<View> views;
  for (int top : {0, size.height - spec.crop_px})
    for (int left : {0, size.width - spec.crop_px}) views.push_back(crop(q, top, left, spec));
  views.push_back(center(size, q, spec));
  return views;
}

std::vector<View> grid(Size size, int q, const ModelSpec& spec) {
  std::vector<View> views;
  for (int i = 0; i < 5; ++i)
    for (int j = 0; j < 5; ++j)
      views.push_back(crop(q, i * (size.height - spec.crop_px) / 4, j * (size.width - spec.crop_px) / 4, spec));
  return views;
}

std::vector<View> squares(Size size, int q, const ModelSpec& spec) {
  std::vector<View> views;
  const int longer = std::max(size.height, size.width);
  for (int offset : {0, (longer - q) / 2, longer - q}) {
    const int top = size.width >= size.height ? 0 : offset, left = size.width >= size.height ? offset : 0;
    for (View view : corners_and_center({q, q}, q, spec)) {
      view.box[0] += top;
      view.box[1] += left;
      views.push_back(view);
    }
    View whole{q, {top, left, q, q}};
    whole.resize_px = spec.crop_px;
    views.push_back(whole);
  }
  return views;
}

std::vector<View> with_mirrors(const std::vector<View>& views) {
  std::vector<View> both;
  for (View view : views) {
    both.push_back(view);
    view.mirrored = true;
    both.push_back(view);
  }
  return both;
}

enum class Method { center, ten_crop, dense, multicrop, squares };

std::vector<View> views_of(Method method, Size size, int q, const ModelSpec& spec) {
  switch (method) {
    case Method::center:
      return {center(size, q, spec)};
    case Method::ten_crop:
      return with_mirrors(corners_and_center(size, q, spec));
    case Method::dense:
      return with_mirrors({View{q, {0, 0, size.height, size.width}}});
    case Method::multicrop:
      return with_mirrors(grid(size, q, spec));
    case Method::squares:
      return with_mirrors(squares(size, q, spec));
  }
  return {};
}

std::vector<Method> methods_of(const std::string& protocol) {
  if (protocol == "center") return {Method::center};
  if (protocol == "ten-crop") return {Method::ten_crop};
  if (protocol == "dense") return {Method::dense};
  if (protocol == "multicrop") return {Method::multicrop};
  if (protocol == "multicrop+dense") return {Method::multicrop, Method::dense};
  if (protocol == "googlenet-144") return {Method::squares};
  std::string known;
  for (const auto& each : protocols()) known += (known.empty() ? "" : ", ") + each;
  throw Error(ErrorCode::invalid_argument, "unknown protocol '" + protocol + "': expected one of " + known);
}

void check_scales(const ModelSpec& spec, const std::vector<int>& scales) {
  if (scales.empty() || std::set<int>(scales.begin(), scales.end()).size() != scales.size())
    throw Error(ErrorCode::invalid_argument, "scales must be different positive integers");
  for (int q : scales)
    if (q < spec.crop_px || q > 1 << 16)
      throw Error(ErrorCode::invalid_argument, "scale " + std::to_string(q) + " px: " + spec.name + " needs " +
                                                   std::to_string(spec.crop_px) + " or more, up to 65536");
}

}  // namespace

const std::vector<std::string>& protocols() {
  static const std::vector<std::string> names{"center",    "ten-crop",        "dense",
                                              "multicrop", "multicrop+dense", "googlenet-144"};
  return names;
}

Size rescaled_px(Size image, int short_side_px, bool long_side_down) {
  if (short_side_px == kAsLoaded) return image;
  const std::int64_t shorter = std::min(image.height, image.width), longer = std::max(image.height, image.width);
  const std::int64_t half = long_side_down ? 0 : shorter / 2;
  const auto rescaled = static_cast<int>(std::min<std::int64_t>((longer * short_side_px + half) / shorter, 1 << 28));  // offsets of it fit
  return image.height <= image.width ? Size{short_side_px, rescaled} : Size{rescaled, short_side_px};
}

std::vector<int> default_scales(const ModelSpec& spec, const std::string& protocol) {
  if (protocol == "center" || protocol == "ten-crop") return {spec.test_short_px};
  if (protocol == "googlenet-144") {
    std::vector<int> scales;
    for (int q : {256, 288, 320, 352}) scales.push_back(q * spec.crop_px / 224);
    return scales;
  }
  const auto [low, high] = spec.train_range_px;
  if (low != high) return {low, (low + high) / 2, high};
  const int d = 32 * spec.crop_px / 224;
  std::vector<int> scales;
  for (int q : {std::max(low - d, spec.crop_px), low, low + d})
    if (std::find(scales.begin(), scales.end(), q) == scales.end()) scales.push_back(q);
  return scales;
}

std::vector<View> plan_views(const ModelSpec& spec, const std::string& protocol, Size image,
                             const std::vector<int>& scales) {
  const std::vector<Method> methods = methods_of(protocol);
  check_scales(spec, scales);
  std::vector<View> plan;
  for (Method method : methods) {
    std::vector<View> found;
    for (int q : scales)
      for (const View& view : views_of(method, rescaled_px(image, q, spec.preprocessing.long_side_down), q, spec))
        found.push_back(view);
    for (View& view : found) view.weight = 1.0 / static_cast<double>(methods.size() * found.size());
    plan.insert(plan.end(), found.begin(), found.end());
  }
  return plan;
}

std::optional<std::string> out_of_range(const std::vector<View>& plan, Size image,
                                        const std::vector<ShapeRange>& shapes, const ModelSpec& spec) {
  if (std::min(image.height, image.width) < kMinSourcePx)
    return "image " + text(image) + " px is too small to show anything: at least " + std::to_string(kMinSourcePx) +
           " px a side";
  for (const View& view : plan) {
    const Size seen = view.size_px(),
               rescaled = rescaled_px(image, view.short_side_px, spec.preprocessing.long_side_down);
    const bool fits = std::any_of(shapes.begin(), shapes.end(), [&](const ShapeRange& shape) {
      return shape.height_px.holds(seen.height) && shape.width_px.holds(seen.width) &&
             shape.rescaled_px.holds(rescaled.height) && shape.rescaled_px.holds(rescaled.width);
    });
    if (fits) continue;
    std::string ranges;
    int largest = 0;
    for (const ShapeRange& shape : shapes) {
      ranges += (ranges.empty() ? "" : "; ") + shape.explain();
      largest = std::max(largest, shape.rescaled_px.max);
    }
    const bool is_crop = seen.height == spec.crop_px && seen.width == spec.crop_px;
    const bool never = spec.fixed_size && !is_crop;  // no profile helps
    return "image " + text(image) + " px at Q=" + std::to_string(view.short_side_px) + " needs a view of " +
           text(seen) + " px from " + text(rescaled) + " px, beyond the engine's range (" + ranges + "; sides up to " +
           std::to_string(largest) + " px): use " + (is_crop ? "smaller scales" : "protocol multicrop") +
           (never ? "" : ", or rebuild the engine with a larger --profile");
  }
  return std::nullopt;
}

}  // namespace verydeep
