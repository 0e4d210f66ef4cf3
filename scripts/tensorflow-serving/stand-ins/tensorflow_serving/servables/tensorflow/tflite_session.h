// Stands in for TensorFlow Lite, whose headers TensorFlow's wheel lacks: a model.tflite cannot be loaded.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "tensorflow/core/public/session.h"

namespace tensorflow::serving {

class TfLiteSession : public Session {
 public:
  template <typename Signatures>
  static absl::Status Create(const std::string&, const SessionOptions&, int, int, std::unique_ptr<TfLiteSession>*,
                             Signatures*) {
    return absl::UnimplementedError("this build has no TensorFlow Lite: leave out --prefer_tflite_model");
  }
};

}  // namespace tensorflow::serving
