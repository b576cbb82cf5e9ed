// Files read whole, which come from others: regular ones alone, so that nothing waits for a pipe, of bounded size.
#pragma once

#include <cstdint>
#include <string>

#include "verydeep/verydeep.hpp"

namespace verydeep {

constexpr std::uintmax_t kLargestImageBytes = std::uintmax_t{1} << 28;
constexpr std::uintmax_t kLargestModelBytes = std::uintmax_t{1} << 31;  // protobuf ends there
constexpr std::uintmax_t kLargestSidecarBytes = std::uintmax_t{1} << 24;

// Throws Error(code) for what is there and no regular file; the text says what it is.
void require_regular(const std::string& path, ErrorCode code);

// The bytes of a regular file. Throws Error(code) where it is none, cannot be read or has more than `most` bytes.
std::string read_file(const std::string& path, std::uintmax_t most, ErrorCode code);

}  // namespace verydeep
