#include "spec.hpp"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "verydeep/verydeep.hpp"

namespace verydeep {
namespace {

constexpr int kMaxSourcePx = 2048, kMinSourcePx = 8, kMaxTaps = 41;

// The bounds of infer/spec.py: both accept the same specs, and nothing computed from one overflows.
constexpr std::int64_t kLargestPx = 1 << 16, kLargestTestPx = kMaxSourcePx;
constexpr std::int64_t kLargestWidth = 1000, kLargestFcWidth = 1 << 20, kMostBoxes = 10'000;
constexpr std::size_t kMostBytes = 1 << 24, kMostClasses = 1'000'000, kMostLetters = 10'000, kNameBytes = 200;
constexpr double kLargestLevel = 1e6, kSmallestStd = 1e-6;  // grey levels

bool is_control(char c) { return static_cast<unsigned char>(c) < ' ' || c == 0x7f; }

// Control characters but white space, which classes in words may have; those of two bytes, U+0080 to U+009F, too.
bool has_control(const std::string& text) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (is_control(text[i]) && !std::isspace(static_cast<unsigned char>(text[i]))) return true;
    if (text[i] == '\xc2' && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xa0) return true;
  }
  return false;
}

[[noreturn]] void refuse(std::string why) {
  std::replace_if(why.begin(), why.end(), [](char c) { return c < ' ' || c > '~'; }, '?');  // what is damaged
  throw Error(ErrorCode::unusable_engine, "not a model spec: " + why);
}

int whole(const nlohmann::json& value, const char* name, std::int64_t least, std::int64_t most) {
  if (!value.is_number_integer()) refuse(std::string(name) + " is not an integer");
  const bool beyond = value.is_number_unsigned() && value.get<std::uint64_t>() > static_cast<std::uint64_t>(most);
  if (beyond || value.get<std::int64_t>() < least)
    refuse(std::string(name) + " is " + value.dump() + ", expected " + std::to_string(least) + " to " +
           std::to_string(most));
  return static_cast<int>(value.get<std::int64_t>());
}

int pixels(const nlohmann::json& value, const char* name, int least) { return whole(value, name, least, kLargestPx); }

void only(const nlohmann::json& object, const char* what, std::initializer_list<const char*> fields) {
  for (const auto& [key, value] : object.items())
    if (std::find(fields.begin(), fields.end(), key) == fields.end())
      refuse(std::string(what) + " has the unknown field '" + key.substr(0, 30) + "': written by a newer version?");
}

std::string text(const nlohmann::json& value, const char* name) {
  const std::string found = value.get<std::string>();
  const auto follows = [](char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; };  // in UTF-8
  const auto letters = found.size() - static_cast<std::size_t>(std::count_if(found.begin(), found.end(), follows));
  if (letters > kMostLetters) refuse(std::string(name) + " has " + std::to_string(letters) + " letters");
  if (has_control(found)) refuse(std::string(name) + " has control characters: '" + found + "'");
  return found;
}

std::vector<std::string> texts(const nlohmann::json& value, const char* name) {
  if (!value.is_array()) refuse(std::string(name) + " is no list");
  if (value.size() > kMostClasses) refuse(std::string(name) + " has " + std::to_string(value.size()) + " entries");
  std::vector<std::string> found;
  for (const auto& each : value) found.push_back(text(each, name));
  return found;
}

std::string choice(const nlohmann::json& object, const char* name, const char* fallback,
                   std::initializer_list<const char*> choices) {
  const std::string value = object.value(name, std::string(fallback));
  for (const char* each : choices)
    if (value == each) return value;
  refuse(std::string(name) + " is '" + value + "'");
}

std::array<float, 3> triple(const nlohmann::json& value, const char* name, double least) {
  if (!value.is_array() || value.size() != 3) refuse(std::string(name) + " needs three values");
  std::array<float, 3> found{};
  for (std::size_t i = 0; i < 3; ++i) {
    if (!value[i].is_number()) refuse(std::string(name) + " has a value that is no number");
    const double level = value[i].get<double>();
    if (!(level >= least && level <= kLargestLevel)) refuse(std::string(name) + " has the value " + value[i].dump());
    found[i] = static_cast<float>(level);
  }
  return found;
}

Preprocessing preprocessing(const nlohmann::json& object) {
  only(object, "preprocessing", {"mean_rgb", "std_rgb", "filter", "exif", "long_side_rounding", "center_rounding"});
  Preprocessing found;
  found.mean_rgb = triple(object.at("mean_rgb"), "mean_rgb", -kLargestLevel);
  for (std::size_t i = 0; i < 3; ++i) {
    const double level = std::nearbyint(object["mean_rgb"][i].get<double>());  // halves to even, as Python does
    found.mean_colour[i] = static_cast<std::uint8_t>(std::min(std::max(level, 0.0), 255.0));
  }
  if (object.contains("std_rgb")) found.std_rgb = triple(object["std_rgb"], "std_rgb", kSmallestStd);
  found.filter =
      choice(object, "filter", "bicubic", {"bicubic", "bilinear"}) == "bicubic" ? Filter::bicubic : Filter::bilinear;
  found.apply_exif = choice(object, "exif", "ignore", {"ignore", "apply"}) == "apply";
  found.long_side_down = choice(object, "long_side_rounding", "nearest", {"nearest", "floor"}) == "floor";
  found.torchvision_center = choice(object, "center_rounding", "floor", {"floor", "torchvision"}) == "torchvision";
  return found;
}

// Of fields that only Python's side makes use of, but which are part of what is a spec.
void check_others(const nlohmann::json& object) {
  choice(object, "pool_rounding", "ceil", {"ceil", "floor"});
  if (object.contains("fc_width")) whole(object["fc_width"], "fc_width", 1, kLargestFcWidth);
  const auto width = object.value("width", nlohmann::json(1));
  if (!width.is_number() || !(width.get<double>() > 0 && width.get<double>() <= kLargestWidth))
    refuse("width is " + width.dump().substr(0, 30));
  const auto source = object.value("source", nlohmann::json::object());
  if (!source.is_object()) refuse("source is no object");
  for (const auto& each : source)
    if (!each.is_string()) refuse("source has a value that is no text");
}

ModelSpec parse(const nlohmann::json& object) {
  only(object, "it", {"name", "net", "classes", "preprocessing", "train_short_px", "test_short_px", "crop_px",
                      "stride_px", "fixed_size", "max_views", "width", "fc_width", "pool_rounding", "task", "boxes",
                      "interface", "precision", "outputs", "class_names", "source"});
  check_others(object);
  ModelSpec spec;
  spec.name = object.at("name").get<std::string>();
  if (spec.name.empty() || spec.name.find('/') != std::string::npos ||
      std::any_of(spec.name.begin(), spec.name.end(), is_control))
    refuse("a model's name must be a plain word, got '" + spec.name + "'");
  text(object["name"], "name");
  if (spec.name.size() > kNameBytes) refuse("name has " + std::to_string(spec.name.size()) + " bytes");
  spec.net = text(object.at("net"), "net");
  spec.classes = texts(object.at("classes"), "classes");
  if (object.contains("class_names")) spec.class_names = texts(object["class_names"], "class_names");
  spec.outputs = {"posterior", "posterior_positions", "pixel_sums"};
  if (object.contains("outputs")) spec.outputs = texts(object["outputs"], "outputs");
  spec.task = choice(object, "task", "classify", {"classify", "box-scr", "box-pcr", "multibox"});
  spec.interface = choice(object, "interface", "views", {"views", "images", "nchw"});
  spec.precision = choice(object, "precision", "fp32", {"fp32", "fp16", "int8"});
  spec.preprocessing = preprocessing(object.at("preprocessing"));
  spec.crop_px = pixels(object.value("crop_px", nlohmann::json(224)), "crop_px", 1);
  spec.stride_px = pixels(object.value("stride_px", nlohmann::json(32)), "stride_px", 1);
  spec.max_views = pixels(object.value("max_views", nlohmann::json(0)), "max_views", 0);
  spec.fixed_size = object.value("fixed_size", false);
  spec.boxes = object.contains("boxes") ? whole(object["boxes"], "boxes", 0, kMostBoxes) : 0;
  if ((spec.boxes > 0) != (spec.task == "multibox"))
    refuse(spec.boxes ? "boxes must be 0 for " + spec.task : "boxes must be above 0 for multibox");
  if (spec.task == "multibox" && !spec.fixed_size) refuse("fixed_size must be true for multibox");
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
  if (spec.test_short_px > kLargestTestPx) refuse("test_short_px is " + std::to_string(spec.test_short_px));
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
  if (json.size() > kMostBytes) refuse(std::to_string(json.size()) + " bytes");
  if (json.rfind("\xef\xbb\xbf", 0) == 0) refuse("a byte order mark");
  try {
    return parse(nlohmann::json::parse(json));
  } catch (const nlohmann::json::exception& error) {
    refuse(error.what());
  }
}

void check_output(const ModelSpec& spec, const std::string& path, const std::string& output, bool right_type,
                  std::int64_t found) {
  const auto classes = static_cast<std::int64_t>(spec.classes.size());
  const auto known = {"posterior", "posterior_positions", "score_map", "box_map", "boxes", "features", "pixel_sums"};
  if (std::find(known.begin(), known.end(), output) == known.end()) return;  // one that we do not read
  std::int64_t expected = found;  // of an output that says nothing of the classes
  if (output == "pixel_sums") expected = 6;
  if (output == "posterior" || output == "posterior_positions" || output == "score_map") expected = classes;
  if (output == "box_map" && spec.task != "classify") expected = spec.task == "box-pcr" ? 4 * classes : 4;
  if (output == "boxes" && spec.task == "multibox") expected = spec.boxes;
  if (!right_type || (found >= 0 && found != expected))
    throw Error(ErrorCode::unusable_engine,
                path + ": its output " + output + " is of " + std::to_string(found) + " values, or of another type, " +
                    "expected " + std::to_string(expected) + " for the " + std::to_string(classes) +
                    " classes of its spec: the spec is of another model");
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
