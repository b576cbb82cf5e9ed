// verydeep-classify IMAGE|FOLDER… --engine FILE [--protocol P] [--scales Q,Q] [--top 5] [--json]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "verydeep/verydeep.hpp"

namespace {

namespace fs = std::filesystem;

constexpr const char* kUsage =
    "usage: verydeep-classify IMAGE|FOLDER... --engine FILE [--protocol center] [--scales Q[,Q...]] [--top 5] [--json]\n"
    "                         [--cuda] [--device 0] [--threads 0] [--self-test]\n";

struct Arguments {
  std::vector<std::string> images;
  std::string engine;
  verydeep::Options options;
  int top = 5;
  bool json = false;
};

[[noreturn]] void usage_error(const std::string& message) {
  std::fprintf(stderr, "verydeep-classify: %s\n", message.c_str());
  std::exit(2);
}

int whole(const std::string& option, const std::string& text) {
  if (text.empty() || text.size() > 9 || text.find_first_not_of("0123456789") != std::string::npos)
    usage_error(option + ": expected a whole number, got '" + text + "'");
  return std::stoi(text);
}

Arguments parse(int argc, char** argv) {
  Arguments found;
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
    } else if (word == "--protocol") {
      found.options.protocol = value();
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
    } else if (word.size() > 1 && word[0] == '-') {
      usage_error("unknown option " + word + "\n" + kUsage);
    } else {
      found.images.push_back(word);
    }
  }
  if (found.engine.empty() || found.images.empty()) usage_error("expected an image and --engine FILE");
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

std::string line(const std::string& path, const std::string& status, const verydeep::Classifier& classifier,
                 const std::vector<verydeep::Prediction>& best) {
  nlohmann::ordered_json object{{"image", path},
                                {"status", status},
                                {"model", classifier.model()},
                                {"protocol", classifier.protocol()},
                                {"predictions", nlohmann::ordered_json::array()}};
  for (const auto& each : best)
    object["predictions"].push_back(
        {{"index", each.index}, {"wnid", each.wnid}, {"name", each.name}, {"probability", each.probability}});
  return object.dump(-1, ' ', true, nlohmann::ordered_json::error_handler_t::replace);
}

int classify(const Arguments& arguments) {
  verydeep::Classifier classifier(arguments.engine, arguments.options);
  int failed = 0;
  for (const std::string& path : files(arguments.images)) {
    std::string status = "ok";
    std::vector<verydeep::Prediction> best;
    try {
      best = classifier.classify_file(path, arguments.top);
    } catch (const verydeep::Error& error) {
      if (error.code() == verydeep::ErrorCode::runtime_failure) throw;
      status = error.what();
      ++failed;
      std::fprintf(stderr, "%s\n", (status.find(path) == std::string::npos ? path + ": " + status : status).c_str());
    }
    if (arguments.json) {
      std::printf("%s\n", line(path, status, classifier, best).c_str());
    } else if (status == "ok") {
      std::printf("%s:", path.c_str());
      for (std::size_t i = 0; i < best.size(); ++i)
        std::printf("%s %s %.1f %%", i ? "," : "", best[i].name.c_str(), 100 * best[i].probability);
      std::printf("\n");
    }
    std::fflush(stdout);
  }
  return failed ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  const Arguments arguments = parse(argc, argv);
  try {
    return classify(arguments);
  } catch (const verydeep::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return error.code() == verydeep::ErrorCode::invalid_argument ? 2 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "verydeep-classify: %s\n", error.what());
    return 1;
  }
}
