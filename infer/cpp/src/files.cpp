#include "files.hpp"

#include <filesystem>
#include <fstream>

namespace verydeep {

void require_regular(const std::string& path, ErrorCode code) {
  std::error_code none;
  const auto kind = std::filesystem::status(path, none).type();
  using std::filesystem::file_type;
  if (kind == file_type::regular || kind == file_type::not_found || kind == file_type::none) return;
  const char* const name = kind == file_type::fifo        ? "a pipe"
                           : kind == file_type::socket    ? "a socket"
                           : kind == file_type::directory ? "a folder"
                                                          : "a device";
  throw Error(code, path + ": cannot be read (is " + name + ", not a file)");
}

std::string read_file(const std::string& path, std::uintmax_t most, ErrorCode code) {
  require_regular(path, code);
  std::error_code failed;
  const std::uintmax_t size = std::filesystem::file_size(path, failed);
  if (failed) throw Error(code, path + ": cannot be read (" + failed.message() + ")");
  if (size > most)
    throw Error(code, path + ": " + std::to_string(size) + " bytes, expected at most " + std::to_string(most));

  std::string data(static_cast<std::size_t>(size), '\0');
  std::ifstream file(path, std::ios::binary);
  if (!file || !file.read(data.data(), static_cast<std::streamsize>(size)))
    throw Error(code, path + ": cannot be read");
  return data;
}

}  // namespace verydeep
