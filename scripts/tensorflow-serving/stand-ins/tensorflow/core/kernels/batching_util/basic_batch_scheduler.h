// Stands in for a header that TensorFlow's wheel lacks. TensorFlow Serving's CreateBasicBatchingSession() names this class,
// and the model server never calls it: --enable_batching uses SharedBatchScheduler, which the wheel has.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "tensorflow/core/kernels/batching_util/batch_scheduler.h"

namespace tensorflow::serving {

template <typename Task>
class BasicBatchScheduler : public BatchScheduler<Task> {
 public:
  struct Options {
    std::string thread_pool_name;
    int max_batch_size = 0;
    int max_execution_batch_size = 0;
    bool enable_large_batch_splitting = false;
  };

  template <typename Callback>
  static absl::Status Create(const Options&, Callback, std::unique_ptr<BasicBatchScheduler>*) {
    return absl::UnimplementedError("this build has no BasicBatchScheduler");
  }
};

}  // namespace tensorflow::serving
