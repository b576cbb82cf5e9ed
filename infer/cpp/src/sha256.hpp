// SHA-256 (FIPS 180-4), so that a plan can be compared with its sidecar without a library for it.
#pragma once

#include <cstddef>
#include <string>

namespace verydeep {

std::string sha256(const void* data, std::size_t size);  // in hexadecimal

}  // namespace verydeep
