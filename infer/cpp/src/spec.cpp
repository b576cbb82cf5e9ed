#include "spec.hpp"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "verydeep/verydeep.hpp"

namespace verydeep {
namespace {

constexpr int kMaxSourcePx = 2048, kMinSourcePx = 8, kMaxTaps = 41;
constexpr int kLargestPx = 1 << 16;  // of anything in a spec: nothing computed from it overflows

bool is_control(char c) { return static_cast<unsigned char>(c) < ' ' || c == 0x7f; }

[[noreturn]] void refuse(std::string why) {
  std::replace_if(why.begin(), why.end(), is_control, '?');  // it may quote what is damaged
  throw Error(ErrorCode::unusable_engine, "not a model spec: " + why);
}

int pixels(const nlohmann::json& value, const char* name, int least) {
  if (!value.is_number_integer()) refuse(std::string(name) + " is not an integer");
  const auto number = value.get<std::int64_t>();
  if (number < least || number > kLargestPx) refuse(std::string(name) + " is " + std::to_string(number));
  return static_cast<int>(number);
}

std::string choice(const nlohmann::json& object, const char* name, const char* fallback,
                   std::initializer_list<const char*> choices) {
  const std::string value = object.value(name, std::string(fallback));
  for (const char* each : choices)
    if (value == each) return value;
  refuse(std::string(name) + " is '" + value + "'");
}

std::array<float, 3> triple(const nlohmann::json& value, const char* name) {
  if (!value.is_array() || value.size() != 3) refuse(std::string(name) + " needs three values");
  return {value[0].get<float>(), value[1].get<float>(), value[2].get<float>()};
}

Preprocessing preprocessing(const nlohmann::json& object) {
  Preprocessing found;
  found.mean_rgb = triple(object.at("mean_rgb"), "mean_rgb");
  if (object.contains("std_rgb")) found.std_rgb = triple(object["std_rgb"], "std_rgb");
  for (float std : found.std_rgb)
    if (!(std > 0)) refuse("std_rgb must be positive");
  found.filter =
      choice(object, "filter", "bicubic", {"bicubic", "bilinear"}) == "bicubic" ? Filter::bicubic : Filter::bilinear;
  found.apply_exif = choice(object, "exif", "ignore", {"ignore", "apply"}) == "apply";
  found.long_side_down = choice(object, "long_side_rounding", "nearest", {"nearest", "floor"}) == "floor";
  found.torchvision_center = choice(object, "center_rounding", "floor", {"floor", "torchvision"}) == "torchvision";
  return found;
}

ModelSpec parse(const nlohmann::json& object) {
  ModelSpec spec;
  spec.name = object.at("name").get<std::string>();
  if (spec.name.empty() || spec.name.find('/') != std::string::npos ||
      std::any_of(spec.name.begin(), spec.name.end(), is_control))
    refuse("a model's name must be a plain word, got '" + spec.name + "'");
  spec.net = object.at("net").get<std::string>();
  spec.classes = object.at("classes").get<std::vector<std::string>>();
  spec.class_names = object.value("class_names", std::vector<std::string>{});
  spec.outputs = object.value("outputs", std::vector<std::string>{"posterior", "posterior_positions", "pixel_sums"});
  spec.task = choice(object, "task", "classify", {"classify", "box-scr", "box-pcr"});
  spec.interface = choice(object, "interface", "views", {"views", "images", "nchw"});
  spec.precision = choice(object, "precision", "fp32", {"fp32", "fp16", "int8"});
  spec.preprocessing = preprocessing(object.at("preprocessing"));
  spec.crop_px = pixels(object.value("crop_px", nlohmann::json(224)), "crop_px", 1);
  spec.stride_px = pixels(object.value("stride_px", nlohmann::json(32)), "stride_px", 1);
  spec.max_views = pixels(object.value("max_views", nlohmann::json(0)), "max_views", 0);
  spec.fixed_size = object.value("fixed_size", false);
  const auto& range = object.at("train_short_px");
  if (range.is_array()) {
    if (range.size() != 2) refuse("train_short_px needs one or two values");
    spec.train_range_px = {pixels(range[0], "train_short_px", 1), pixels(range[1], "train_short_px", 1)};
  } else {
    spec.train_range_px = {pixels(range, "train_short_px", 1), pixels(range, "train_short_px", 1)};
  }
  const auto [low, high] = spec.train_range_px;
  spec.test_short_px = pixels(object.value("test_short_px", nlohmann::json(0)), "test_short_px", 0);
  if (spec.test_short_px == 0) spec.test_short_px = (low + high) / 2;
  if (spec.classes.size() < 2) refuse("a classifier needs two classes at least");
  if (std::set<std::string>(spec.classes.begin(), spec.classes.end()).size() != spec.classes.size())
    refuse("classes must differ from each other");
  if (!spec.class_names.empty() && spec.class_names.size() != spec.classes.size())
    refuse("class_names are not as many as classes");
  if (spec.crop_px < spec.stride_px || spec.crop_px % spec.stride_px) refuse("crop_px is no multiple of stride_px");
  if (low < spec.crop_px || high < low || spec.test_short_px < spec.crop_px) refuse("a scale is below crop_px");
  return spec;
}

}  // namespace

ModelSpec parse_spec(const std::string& json) {
  try {
    return parse(nlohmann::json::parse(json));
  } catch (const nlohmann::json::exception& error) {
    refuse(error.what());
  }
}

std::string ShapeRange::explain() const {
  return name + ": views of " + std::to_string(height_px.min) + "x" + std::to_string(width_px.min) + " to " +
         std::to_string(height_px.max) + "x" + std::to_string(width_px.max) + " px";
}

std::vector<ShapeRange> default_shapes(const ModelSpec& spec, int largest_short_px) {
  const int crop = spec.crop_px, opt = spec.test_short_px;
  const auto image = [&](int opt_px, int largest) {
    const int side = std::max(kMaxSourcePx, largest);
    return std::array<Extent, 3>{Extent{crop, opt_px, side}, Extent{kMinSourcePx, 500, side}, Extent{1, 7, kMaxTaps}};
  };
  const auto shape = [&](const char* name, int views, Extent height, Extent width, std::array<Extent, 3> of_image) {
    return ShapeRange{name, {1, views, views}, height, width, of_image[0], of_image[1], of_image[2]};
  };
  const auto at_most = [&](int views) { return spec.max_views ? std::min(views, spec.max_views) : views; };
  const Extent square{crop, crop, crop};
  std::vector<ShapeRange> shapes{shape("crops", at_most(50), square, square, image(opt, 0))};
  if (spec.fixed_size) return shapes;
  const auto [low, high] = spec.train_range_px;
  const int widened = high + (low == high ? 32 * crop / 224 : 0);
  const int largest = std::max({512 * crop / 224, widened, opt, largest_short_px});
  const int longest = largest * 8 / 3, long_opt = std::min(std::max(opt, crop) * 4 / 3, longest);
  const Extent short_px{crop, std::max(opt, crop), largest}, long_px{crop, long_opt, longest};
  shapes.push_back(shape("dense landscape", at_most(2), short_px, long_px, image(long_opt, longest)));
  shapes.push_back(shape("dense portrait", at_most(2), long_px, short_px, image(long_opt, longest)));
  return shapes;
}

}  // namespace verydeep
