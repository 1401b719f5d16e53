// resident.cu for a CPU, as a library: the kernels with a driver's list of arguments.
#include "emulated_cuda.h"
#include "resident.cu"

template <class T> T argument(void** arguments, int index) {
    return *static_cast<T*>(arguments[index]);
}

template <class... Types, size_t... indices>
void call(void (*kernel)(Types...), void** arguments, std::index_sequence<indices...>) {
    kernel(argument<Types>(arguments, indices)...);
}

template <class... Types>
const char* launch(
    void (*kernel)(Types...), unsigned seed, int grid, int ctas, int threads, size_t shared_bytes,
    void** arguments) {
    static std::string fault;
    fault = run_kernel(seed, grid, ctas, threads, shared_bytes, [=] {
        call(kernel, arguments, std::index_sequence_for<Types...>());
    });
    return fault.c_str();
}

extern "C" const char* launch_resident_level(
    unsigned seed, int grid, int ctas, int threads, size_t shared_bytes, void** arguments) {
    return launch(resident_level, seed, grid, ctas, threads, shared_bytes, arguments);
}

extern "C" const char* launch_pack(
    unsigned seed, int grid, int ctas, int threads, size_t shared_bytes, void** arguments) {
    return launch(pack, seed, grid, ctas, threads, shared_bytes, arguments);
}
