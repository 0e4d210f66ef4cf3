// Stands in for the profiler's service, which is compiled into TensorFlow's library for another version of gRPC. It has no
// methods here, so gRPC answers each call of it with UNIMPLEMENTED.
#pragma once

#include <grpcpp/impl/service_type.h>

#include <memory>

namespace tensorflow::grpc {
struct ProfilerService {
  class Service : public ::grpc::Service {};
};
}  // namespace tensorflow::grpc

namespace tsl::profiler {
inline std::unique_ptr<tensorflow::grpc::ProfilerService::Service> CreateProfilerService() {
  return std::make_unique<tensorflow::grpc::ProfilerService::Service>();
}
}  // namespace tsl::profiler
