// Stands in for libcurl, of which the REST API uses percent-decoding alone: by libevent, whose server it has anyway.
#pragma once

#include <event2/http.h>

#include <cstdlib>

using CURL = void;
inline constexpr int CURL_GLOBAL_ALL = 0;

inline void curl_global_init(int) {}

inline CURL* curl_easy_init() {
  static char handle;
  return &handle;
}

inline void curl_easy_cleanup(CURL*) {}

inline char* curl_easy_unescape(CURL*, const char* text, int, int* length) {
  size_t size = 0;
  char* decoded = evhttp_uridecode(text, /*decode_plus=*/0, &size);
  *length = static_cast<int>(size);
  return decoded;
}

inline void curl_free(void* text) { std::free(text); }
