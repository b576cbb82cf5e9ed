#include "sidecar.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "files.hpp"
#include "sha256.hpp"
#include "verydeep/verydeep.hpp"

namespace verydeep {
namespace {

[[noreturn]] void refuse(std::string why) {
  std::replace_if(why.begin(), why.end(), [](char c) { return c < ' ' || c > '~'; }, '?');  // it may quote what is damaged
  throw Error(ErrorCode::unusable_engine, why);
}

Extent extent(const nlohmann::json& value) {
  constexpr std::int64_t kLargest = 1 << 20;
  const auto number = [&](const char* name) {
    const auto& found = value.at(name);
    if (!found.is_number_integer()) refuse("a range has a " + std::string(name) + " that is no integer");  // 3e84
    return found.get<std::int64_t>();
  };
  const std::int64_t min = number("min"), opt = number("opt"), max = number("max");
  if (!(0 < min && min <= opt && opt <= max && max <= kLargest)) refuse("a range is out of order");
  return {static_cast<int>(min), static_cast<int>(opt), static_cast<int>(max)};
}

// The numbers of a version, up to what is none: 10.14.1.48 of 10.14.1.48.post1, as Python's package says it.
std::vector<long> numbers(const std::string& version) {
  std::vector<long> found;
  std::istringstream parts(version);
  for (std::string part; std::getline(parts, part, '.');) {
    if (part.empty() || part[0] < '0' || part[0] > '9') break;
    found.push_back(std::strtol(part.c_str(), nullptr, 10));
  }
  return found;
}

Sidecar understood(const std::string& path, const nlohmann::json& content) {
  Sidecar found;
  found.path = path;
  found.sha256 = content.at("sha256").get<std::string>();
  const std::string builder = content.at("builder").get<std::string>();
  const auto space = builder.find(' ');
  const std::string library = builder.substr(0, space);
  if (library != "tensorrt")
    refuse("built by " + library + ", expected tensorrt: python -m export.to_trt --builder tensorrt");
  found.version = space == std::string::npos ? "" : builder.substr(space + 1);
  found.spec = parse_spec(content.at("spec").dump());
  for (const auto& profile : content.at("profiles"))
    found.shapes.push_back({profile.at("name").get<std::string>(), extent(profile.at("views")),
                            extent(profile.at("height_px")), extent(profile.at("width_px")),
                            extent(profile.at("rescaled_px")), extent(profile.at("source_px")),
                            extent(profile.at("taps")), profile.contains("lines") && !profile["lines"].is_null()});
  found.targets = content.at("targets").get<std::vector<std::string>>();
  if (content.contains("options")) {
    const auto& options = content["options"];
    found.version_compatible = options.contains("version_compatible") && options["version_compatible"] == true;
    found.hardware_compatible = options.contains("hardware_compatible") && options["hardware_compatible"].is_string() &&
                                options["hardware_compatible"] != "";
  }
  if (content.contains("self_test") && !content["self_test"].is_null()) found.self_test = content["self_test"].dump();
  return found;
}

}  // namespace

std::string Sidecar::rebuild() const {
  const std::string stem = path.substr(0, path.rfind('.'));
  return "python -m export.to_trt " + stem + ".onnx -o " + path + " --builder tensorrt";
}

Sidecar read_sidecar(const std::string& path, const std::string& plan) {
  const std::string beside = path + ".json";
  if (!std::filesystem::exists(beside))
    refuse(beside + ": missing, expected the sidecar of " + path + ": build the engine again with export.to_trt");
  const std::string text = read_file(beside, kLargestSidecarBytes, ErrorCode::unusable_engine);
  Sidecar sidecar = parse_sidecar(path, text);
  const std::string found = sha256(plan.data(), plan.size());
  if (found != sidecar.sha256)
    refuse(path + ": sha256 " + found.substr(0, 12) + "..., but its sidecar says " + sidecar.sha256.substr(0, 12) +
           "...: the plan was changed or the sidecar belongs to another; build it again with export.to_trt");
  return sidecar;
}

Sidecar parse_sidecar(const std::string& path, const std::string& json) {
  try {
    return understood(path, nlohmann::json::parse(json));
  } catch (const Error& error) {
    refuse(path + ".json: " + error.what());
  } catch (const nlohmann::json::exception& error) {
    refuse(path + ".json: damaged (" + error.what() + "): build the engine again with export.to_trt");
  }
}

void check_version(const Sidecar& sidecar, const std::string& found) {
  const auto here = numbers(found), built = numbers(sidecar.version);
  if (!built.empty() && (here == built || (sidecar.version_compatible && here > built))) return;
  refuse(sidecar.path + ": built by tensorrt " + sidecar.version + ", but here is " + found +
         ", and a plan belongs to one version: " + sidecar.rebuild());
}

void check_target(const Sidecar& sidecar, const std::string& target, const std::string& name) {
  if (sidecar.hardware_compatible ||
      std::find(sidecar.targets.begin(), sidecar.targets.end(), target) != sidecar.targets.end())
    return;
  std::string known;
  for (const auto& each : sidecar.targets) known += (known.empty() ? "" : ", ") + each;
  refuse(sidecar.path + ": built for " + known + ", but " + name + " is " + target + ": " + sidecar.rebuild() +
         " (on this machine)");
}

}  // namespace verydeep
