// verydeep-classify IMAGE|FOLDER… --engine FILE [--protocol P] [--scales Q,Q] [--top 5] [--json]
// verydeep-classify --video FILE|--camera N --engine FILE …
// verydeep-classify IMAGE… --engine CLASSIFIER --box-engine BOXES [--box-engine BOXES] …
// verydeep-classify IMAGE… --engine REGIONS --detect --multibox MULTIBOX|--regions FILE.csv [--least 0.5] …
#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "verydeep/verydeep.hpp"
#include "video.hpp"

namespace {

namespace fs = std::filesystem;

constexpr const char* kUsage =
    "usage: verydeep-classify IMAGE|FOLDER... --engine FILE [--protocol center] [--scales Q[,Q...]] [--top 5] [--json]\n"
    "                         [--cuda] [--device 0] [--threads 0] [--self-test] [--box-engine FILE]...\n"
    "       verydeep-classify --video FILE|--camera N --engine FILE ...\n"
    "       verydeep-classify ... --engine FILE --detect --multibox FILE [--least 0.5]\n"
    "       verydeep-classify IMAGE --engine FILE --detect --regions FILE.csv [--least 0.5]\n";

struct Arguments {
  std::vector<std::string> images, box_engines;
  std::string engine, video;
  int camera = -1;
  verydeep::Options options;
  int top = 5;
  bool json = false, detect = false;
  std::string multibox, regions;  // what proposes the regions that objects are looked for in
  double least = 0.5;
};

// The text with control characters, line ends and what turns text around escaped, as Python's infer.errors.one_line:
// no name moves the cursor.
std::string one_line(const std::string& text) {
  std::string safe;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = [&](std::size_t after) {
      return i + after < text.size() ? static_cast<unsigned char>(text[i + after]) : 0u;
    };
    const unsigned first = byte(0), second = byte(1), third = byte(2);
    char escape[8] = "";
    std::size_t bytes = 1;
    if (first == '\n' || first == '\r' || first == '\t') {
      std::snprintf(escape, sizeof escape, "\\%c", first == '\n' ? 'n' : first == '\r' ? 'r' : 't');
    } else if (first < ' ' || first == 0x7f) {
      std::snprintf(escape, sizeof escape, "\\x%02x", first);
    } else if (first == 0xc2 && second < 0xa0) {  // U+0080 to U+009F
      std::snprintf(escape, sizeof escape, "\\x%02x", second);
      bytes = 2;
    } else if (first == 0xe2 && (second == 0x80 || second == 0x81)) {  // U+2000 to U+207F
      const unsigned code = 0x2000 + ((second & 1) << 6) + (third & 0x3f);
      const bool turns = (code >= 0x200b && code <= 0x200f) || (code >= 0x2028 && code <= 0x202e) || code >= 0x2060;
      if (turns && code < 0x2070) {
        std::snprintf(escape, sizeof escape, "\\u%04x", code);
        bytes = 3;
      }
    }
    safe += *escape ? std::string(escape) : text.substr(i, 1);
    i += bytes - 1;
  }
  return safe;
}

[[noreturn]] void usage_error(const std::string& message) {
  std::fprintf(stderr, "verydeep-classify: %s\n", one_line(message).c_str());
  std::exit(2);
}

int whole(const std::string& option, const std::string& text) {
  if (text.empty() || text.size() > 9 || text.find_first_not_of("0123456789") != std::string::npos)
    usage_error(option + ": expected a whole number, got '" + text + "'");
  return std::stoi(text);
}

double posterior(const std::string& option, const std::string& text) {
  char* end = nullptr;
  const double found = std::strtod(text.c_str(), &end);
  if (text.empty() || *end || !(found > 0 && found <= 1))
    usage_error(option + ": expected a posterior above 0 and at most 1, got " + text);
  return found;
}

// What --detect goes together with.
void check_detect(const Arguments& found, bool protocol, bool least) {
  if (!found.detect) {
    for (const auto& [option, is_given] : {std::make_pair("--multibox", !found.multibox.empty()),
                                           std::make_pair("--regions", !found.regions.empty()),
                                           std::make_pair("--least", least)})
      if (is_given) usage_error(std::string(option) + " is for --detect: add it");
    return;
  }
  if (protocol || !found.options.scales.empty() || !found.box_engines.empty())
    usage_error("--detect looks at regions: leave out --protocol, --scales and --box-engine");
  if (found.multibox.empty() == found.regions.empty())
    usage_error("--detect needs what proposes regions: expected --multibox FILE or --regions FILE.csv, one of them "
                "(selective search is only in python -m infer)");
  if (!found.regions.empty() && (found.images.size() != 1 || fs::is_directory(found.images[0])))
    usage_error("--regions are of one IMAGE: expected one file");
}

Arguments parse(int argc, char** argv) {
  Arguments found;
  bool protocol = false, least = false;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const auto value = [&] {
      if (++i >= argc) usage_error(word + ": expected a value");
      return std::string(argv[i]);
    };
    if (word == "--help" || word == "-h") {
      std::fputs(kUsage, stdout);
      std::exit(0);
    } else if (word == "--engine") {
      found.engine = value();
    } else if (word == "--video") {
      found.video = value();
    } else if (word == "--camera") {
      found.camera = whole(word, value());
    } else if (word == "--protocol") {
      found.options.protocol = value();
      protocol = true;
    } else if (word == "--box-engine") {
      found.box_engines.push_back(value());
    } else if (word == "--scales") {
      std::stringstream all(value());
      for (std::string each; std::getline(all, each, ',');) found.options.scales.push_back(whole(word, each));
    } else if (word == "--top") {
      found.top = whole(word, value());
      if (found.top < 1) usage_error("--top: expected a positive number, got 0");
    } else if (word == "--device") {
      found.options.device = whole(word, value());
    } else if (word == "--threads") {
      found.options.threads = whole(word, value());
    } else if (word == "--cuda") {
      found.options.cuda = true;
    } else if (word == "--self-test") {
      found.options.self_test = true;
    } else if (word == "--json") {
      found.json = true;
    } else if (word == "--detect") {
      found.detect = true;
    } else if (word == "--multibox") {
      found.multibox = value();
    } else if (word == "--regions") {
      found.regions = value();
    } else if (word == "--least") {
      found.least = posterior(word, value());
      least = true;
    } else if (word.size() > 1 && word[0] == '-') {
      usage_error("unknown option " + word + "\n" + kUsage);
    } else {
      found.images.push_back(word);
    }
  }
  const int kinds = !found.images.empty() + !found.video.empty() + (found.camera >= 0);
  if (found.engine.empty() || !kinds) usage_error("expected an image and --engine FILE");
  if (kinds > 1) usage_error("expected images, --video or --camera: one of them");
  check_detect(found, protocol, least);
  if (!found.box_engines.empty()) {
    if (protocol && found.options.protocol != "dense")
      usage_error("--box-engine finds boxes in dense views, not " + found.options.protocol + ": leave --protocol out");
    found.options.protocol = "dense";
  }
  return found;
}

// The files named, and all JPEGs and PNGs below the folders named, in order.
std::vector<std::string> files(const std::vector<std::string>& images) {
  static const std::set<std::string> endings{".jpeg", ".jpg", ".png"};
  std::vector<std::string> all;
  for (const std::string& image : images) {
    std::error_code none;
    if (!fs::is_directory(image, none)) {
      all.push_back(image);
      continue;
    }
    std::vector<std::string> inside;
    for (const auto& entry : fs::recursive_directory_iterator(image, fs::directory_options::skip_permission_denied)) {
      std::string ending = entry.path().extension().string();
      std::transform(ending.begin(), ending.end(), ending.begin(), [](unsigned char c) { return std::tolower(c); });
      if (endings.count(ending) && entry.is_regular_file(none)) inside.push_back(entry.path().string());
    }
    std::sort(inside.begin(), inside.end());
    all.insert(all.end(), inside.begin(), inside.end());
  }
  return all;
}

// What is in an image, as the last field of a line of JSON and in words.
struct Seen {
  nlohmann::ordered_json found = nlohmann::ordered_json::array();
  std::string words;
};

// Text as printf makes it, of any length.
template <typename... Values>
std::string format(const char* form, Values... values) {
  const int length = std::snprintf(nullptr, 0, form, values...);
  std::string text(static_cast<std::size_t>(length) + 1, '\0');
  std::snprintf(text.data(), text.size(), form, values...);
  text.pop_back();
  return text;
}

// Says on stderr where an FP16 or INT8 model is not rounded.
void note(const std::string& arithmetic, const std::string& name, const std::string& path) {
  if (arithmetic != verydeep::kUnrounded && arithmetic != verydeep::kInt8InFp32) return;
  const std::string said = name + ": " + arithmetic + ": ONNX Runtime does not round on a CPU, so a GPU answers " +
                           "otherwise; python -m export.to_check " + path + " makes the check graph beside it, which does";
  std::fprintf(stderr, "%s\n", one_line(said).c_str());
}

// What says what is in an image.
class Engines {
 public:
  virtual ~Engines() = default;
  virtual const verydeep::Classifier& classifier() const = 0;
  virtual const char* last_field() const = 0;
  // The field that says how an image was looked at, and its value.
  virtual std::pair<const char*, std::string> how() const = 0;
  virtual Seen file(const std::string& path) = 0;
  virtual Seen image(const verydeep::Image& image) = 0;
};

// A classifier, and box nets where there are any.
class Classes final : public Engines {
 public:
  explicit Classes(const Arguments& arguments) : top_(arguments.top) {
    if (arguments.box_engines.empty())
      alone_ = std::make_unique<verydeep::Classifier>(arguments.engine, arguments.options);
    else
      localizer_ = std::make_unique<verydeep::Localizer>(arguments.engine, arguments.box_engines, arguments.options);
    note(classifier().arithmetic(), classifier().model(), arguments.engine);
    if (localizer_) {
      const std::vector<std::string> said = localizer_->box_arithmetic();
      for (std::size_t i = 0; i < said.size(); ++i) note(said[i], arguments.box_engines[i], arguments.box_engines[i]);
    }
  }

  const verydeep::Classifier& classifier() const override { return alone_ ? *alone_ : localizer_->classifier(); }
  const char* last_field() const override { return "predictions"; }
  std::pair<const char*, std::string> how() const override { return {"protocol", classifier().protocol()}; }

  Seen file(const std::string& path) override {
    return said(alone_ ? without_boxes(alone_->classify_file(path, top_)) : localizer_->locate_file(path, top_));
  }
  Seen image(const verydeep::Image& image) override {
    return said(alone_ ? without_boxes(alone_->classify(image, top_)) : localizer_->locate(image, top_));
  }

 private:
  static std::vector<verydeep::Located> without_boxes(const std::vector<verydeep::Prediction>& best) {
    std::vector<verydeep::Located> found;
    for (const auto& each : best) found.push_back({each, false, {}});
    return found;
  }

  Seen said(const std::vector<verydeep::Located>& best) const {
    Seen seen;
    for (const auto& [what, found, where] : best) {
      nlohmann::ordered_json one{
          {"index", what.index}, {"wnid", what.wnid}, {"name", what.name}, {"probability", what.probability}};
      if (localizer_) {
        one["box"] = nullptr;
        if (found) one["box"] = {where.xmin, where.ymin, where.xmax, where.ymax};
      }
      seen.found.push_back(one);
      seen.words += format("%s %s %.1f %%", seen.words.empty() ? "" : ",", what.name.c_str(), 100 * what.probability);
      if (found) seen.words += format(" at %.0f,%.0f-%.0f,%.0f", where.xmin, where.ymin, where.xmax, where.ymax);
    }
    return seen;
  }

  int top_;
  std::unique_ptr<verydeep::Classifier> alone_;
  std::unique_ptr<verydeep::Localizer> localizer_;
};

// Boxes of a CSV with rows xmin,ymin,xmax,ymax, of which the first may be their names.
std::vector<verydeep::Rectangle> read_regions(const std::string& path) {
  std::ifstream file(path);
  if (!file || fs::is_directory(path)) throw std::runtime_error(path + ": no such file, expected regions as .csv");
  std::vector<verydeep::Rectangle> found;
  int number = 0;
  for (std::string row; std::getline(file, row);) {
    ++number;
    row.erase(std::remove_if(row.begin(), row.end(), [](unsigned char c) { return std::isspace(c); }), row.end());
    if (row.empty() || (number == 1 && row == "xmin,ymin,xmax,ymax")) continue;
    double values[4] = {};
    const char* from = row.c_str();
    bool right = true;
    for (int i = 0; i < 4 && right; ++i) {
      char* end = nullptr;
      values[i] = std::strtod(from, &end);
      right = end != from && std::isfinite(values[i]) && *end == (i < 3 ? ',' : '\0');
      from = end + 1;
    }
    if (!right)
      throw std::runtime_error(path + ": row " + std::to_string(number) + " is '" + row.substr(0, 80) +
                               "', expected rows xmin,ymin,xmax,ymax");
    found.push_back({values[0], values[1], values[2], values[3]});
  }
  if (found.empty()) throw std::runtime_error(path + ": has no rows, expected rows xmin,ymin,xmax,ymax");
  return found;
}

// A net of regions, and a MultiBox net that proposes them or a file that has them.
class Objects final : public Engines {
 public:
  explicit Objects(const Arguments& arguments)
      : least_(arguments.least), detector_(arguments.engine, arguments.multibox, arguments.options) {
    if (!arguments.regions.empty()) regions_ = read_regions(arguments.regions);
    note(classifier().arithmetic(), classifier().model(), arguments.engine);
    note(detector_.multibox_arithmetic(), arguments.multibox, arguments.multibox);
  }

  const verydeep::Classifier& classifier() const override { return detector_.classifier(); }
  const char* last_field() const override { return "objects"; }
  std::pair<const char*, std::string> how() const override {
    return {"proposals", regions_.empty() ? "multibox" : "given"};
  }

  Seen file(const std::string& path) override {
    return said(regions_.empty() ? detector_.detect_file(path, least_)
                                 : detector_.detect_file_in(path, regions_, least_));
  }
  Seen image(const verydeep::Image& image) override { return said(detector_.detect(image, least_)); }

 private:
  Seen said(const std::vector<verydeep::Detected>& objects) const {
    Seen seen;
    for (const auto& [what, where] : objects) {
      seen.found.push_back({{"index", what.index},
                            {"wnid", what.wnid},
                            {"name", what.name},
                            {"score", what.probability},
                            {"box", {where.xmin, where.ymin, where.xmax, where.ymax}}});
      seen.words += format("%s %s %.1f %% at %.0f,%.0f,%.0f,%.0f", seen.words.empty() ? "" : ";", what.name.c_str(),
                           100 * what.probability, where.xmin, where.ymin, where.xmax, where.ymax);
    }
    if (objects.empty()) seen.words = format(" no object of %g or more", least_);
    return seen;
  }

  double least_;
  verydeep::Detector detector_;
  std::vector<verydeep::Rectangle> regions_;  // none: a MultiBox net proposes
};

std::unique_ptr<Engines> open_engines(const Arguments& arguments) {
  if (arguments.detect) return std::make_unique<Objects>(arguments);
  return std::make_unique<Classes>(arguments);
}

std::string line(const std::string& path, const std::string& status, const Engines& engines, const Seen& seen) {
  const auto [field, value] = engines.how();
  const nlohmann::ordered_json object{{"image", path},
                                      {"status", status},
                                      {"model", engines.classifier().model()},
                                      {"arithmetic", engines.classifier().arithmetic()},
                                      {field, value},
                                      {engines.last_field(), seen.found}};
  return object.dump(-1, ' ', true, nlohmann::ordered_json::error_handler_t::replace);
}

// Prints what is seen in the image of that name, or why it cannot be read; returns whether it could.
template <typename Work>
bool report(const std::string& name, bool json, const Engines& engines, Work&& work) {
  std::string status = "ok";
  Seen seen;
  try {
    seen = work();
  } catch (const verydeep::Error& error) {
    if (error.code() == verydeep::ErrorCode::runtime_failure) throw;
    status = error.what();
    const std::string said = status.find(name) == std::string::npos ? name + ": " + status : status;
    std::fprintf(stderr, "%s\n", one_line(said).c_str());
  }
  if (json) {
    std::printf("%s\n", line(name, status, engines, seen).c_str());
  } else if (status == "ok") {
    std::printf("%s\n", one_line(name + ":" + seen.words).c_str());
  }
  std::fflush(stdout);
  return status == "ok";
}

int classify_files(const Arguments& arguments) {
  const std::unique_ptr<Engines> engines = open_engines(arguments);
  int failed = 0;
  for (const std::string& path : files(arguments.images))
    failed += !report(path, arguments.json, *engines, [&] { return engines->file(path); });
  return failed ? 1 : 0;
}

// Frame after frame, called FILE#0, FILE#1, ... or camera N#0, ...; a camera's until the app is stopped.
int classify_frames(const Arguments& arguments) {
  const std::string name = arguments.video.empty() ? "camera " + std::to_string(arguments.camera) : arguments.video;
  setenv("OPENCV_LOG_LEVEL", "OFF", 0);  // what it would report is said here
  setenv("OPENCV_FFMPEG_LOGLEVEL", "-8", 0);
  void* module = dlopen("libverydeep-video.so", RTLD_NOW);
  if (!module)
    throw std::runtime_error(name + ": this verydeep-classify was built without OpenCV, which reads videos and cameras (" +
                             dlerror() + ")");
  const auto open = reinterpret_cast<OpenVideo*>(dlsym(module, "open_video"));
  const auto read = reinterpret_cast<ReadFrame*>(dlsym(module, "read_frame"));
  const auto close = reinterpret_cast<CloseVideo*>(dlsym(module, "close_video"));
  if (!open || !read || !close) throw std::runtime_error("libverydeep-video.so is of another version");
  const std::unique_ptr<Engines> engines = open_engines(arguments);
  const std::unique_ptr<void, CloseVideo*> video(
      open(arguments.video.empty() ? nullptr : arguments.video.c_str(), arguments.camera), close);
  int frames = 0, failed = 0;
  for (Frame frame{}; video && read(video.get(), &frame); ++frames)
    failed += !report(name + "#" + std::to_string(frames), arguments.json, *engines, [&] {
      return engines->image({frame.pixels, frame.height, frame.width, frame.row_stride, verydeep::Order::bgr});
    });
  if (!frames) throw std::runtime_error(name + ": no frame of a video can be read");
  return failed ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  const Arguments arguments = parse(argc, argv);
  try {
    return arguments.images.empty() ? classify_frames(arguments) : classify_files(arguments);
  } catch (const verydeep::Error& error) {
    std::fprintf(stderr, "%s\n", one_line(error.what()).c_str());
    return error.code() == verydeep::ErrorCode::invalid_argument ? 2 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", one_line(error.what()).c_str());
    return 1;
  }
}
