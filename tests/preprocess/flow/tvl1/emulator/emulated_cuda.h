// What resident.cu needs of CUDA, for a CPU: threads are fibers of one thread of the CPU, and what
// CTAs send to one another arrives late and in any order.
//
// Which warp runs ahead of the others is drawn from a seed, so that a missing barrier shows as
// another result. Every index is checked, shared memory begins as NaN, and what nobody can end is a
// deadlock. The first fault ends the launch, and is returned as text.
#pragma once
#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <ucontext.h>
#include <vector>

#define EMULATED
#define __device__
#define __global__
#define __launch_bounds__(...)
using std::max;
using std::min;

struct float2 { float x, y; };
struct float4 { float x, y, z, w; };

struct Mailbox {
    long phase = 0, arrivals = 1, bytes = 0;
    void settle() {
        if (arrivals == 0 && bytes == 0) ++phase, arrivals = 1;
    }
};

[[noreturn]] void fail(const std::string& text);

// A pointer into an array whose ends it knows.
template <class T> struct Span {
    T* first = nullptr;
    long long size = 0, at = 0;

    T& operator[](long long index) const {
        if (at + index < 0 || at + index >= size)
            fail("index " + std::to_string(at + index) + " of " + std::to_string(size));
        return first[at + index];
    }
    T& operator*() const { return (*this)[0]; }
    T* operator->() const { return &(*this)[0]; }
    Span operator+(long long steps) const { return {first, size, at + steps}; }
    Span operator-(long long steps) const { return {first, size, at - steps}; }
    operator Span<const T>() const { return {first, size, at}; }
};

template <class T> Span<T> span(T* first, long long size) { return {first, size, 0}; }
template <class T> Span<T> span(Span<T> whole, long long size) {
    if (size > 0) whole[0], whole[size - 1];
    return {whole.first + whole.at, size, 0};
}

// A place where a number of fibers meet.
struct Meeting {
    long turn = 0;
    int arrived = 0;
    float values[2][32];  // of a warp
};

struct Array {
    std::unique_ptr<char[]> memory;
    size_t bytes;
};

struct Cta {
    int cluster, rank;
    std::vector<Array> arrays;
    Meeting meeting, warps[32];
};

struct Fiber {
    Cta* cta;
    int thread;
    std::unique_ptr<char[]> stack;
    ucontext_t context;
    jmp_buf resume;
    bool begun = false, ended = false;
    const long* waits_for = nullptr;  // runs on once this is another number than
    long seen = 0;

    void begin();
};

struct Message {
    char* target;
    char value[16];
    size_t bytes;
    Mailbox* box;
};

struct Machine {
    std::mt19937 random;
    int threads, ctas;
    size_t shared_bytes;
    std::vector<Cta> all_ctas;
    std::vector<Meeting> clusters;
    std::vector<Fiber> fibers;
    std::vector<Message> post;
    Fiber* now = nullptr;
    std::function<void()> kernel;
    jmp_buf scheduler, end;
    std::string fault;
    std::vector<size_t> order;
    // What can end the waiting of a whole warp, counted; and at which of these a warp was waiting
    size_t events = 1;
    std::vector<size_t> waiting;
    size_t left = 0, place = 0, lane = 0, delay = 1, patience = 1;
    bool has_run = true;

    void deliver() {
        std::swap(post[random() % post.size()], post.back());
        const Message message = post.back();
        post.pop_back();
        memcpy(message.target, message.value, message.bytes);
        message.box->bytes -= message.bytes;
        message.box->settle();
        ++events;
    }
    void wait(const long* counter, long seen) {
        now->waits_for = counter, now->seen = seen;
        if (!_setjmp(now->resume)) _longjmp(scheduler, 1);
    }
    void meet(Meeting& meeting, int members) {
        const long turn = meeting.turn;
        if (++meeting.arrived == members) {
            meeting.arrived = 0, ++meeting.turn;
            if (members > 32) ++events;
        } else {
            wait(&meeting.turn, turn);
        }
    }
    void run();
};

inline Machine machine;

inline void fail(const std::string& text) {
    const Fiber* now = machine.now;
    machine.fault = now ? "CTA " + std::to_string(now->cta->rank) + ", thread "
            + std::to_string(now->thread) + ": " + text
                        : text;
    _longjmp(machine.end, 1);
}

inline void begin_fiber() {
    machine.kernel();
    machine.now->ended = true;
    _longjmp(machine.scheduler, 1);
}

inline void Fiber::begin() {
    constexpr size_t stack_bytes = 64 << 10;
    begun = true;
    stack.reset(new char[stack_bytes]);
    getcontext(&context);
    context.uc_stack.ss_sp = stack.get();
    context.uc_stack.ss_size = stack_bytes;
    context.uc_link = nullptr;
    makecontext(&context, begin_fiber, 0);
    setcontext(&context);
}

// The warp that comes first in `order` and can go on does: far ahead of the others, until it waits
// for them or the order is drawn anew.
inline void Machine::run() {
    if (_setjmp(end)) return;
    const size_t num_warps = fibers.size() / 32;
    for (size_t warp = 0; warp < num_warps; ++warp) order.push_back(warp), waiting.push_back(0);
    for (left = fibers.size(), place = num_warps; left > 0;) {
        if (place == num_warps) {
            // None can, but for what is still on its way.
            if (post.empty() && !has_run) now = nullptr, fail("deadlock");
            if (!post.empty() && (!has_run || random() % delay == 0)) deliver();
            if (random() % patience == 0) {
                std::shuffle(order.begin(), order.end(), random);
                delay = 1 << random() % 10, patience = 1 << random() % 12;
            }
            place = 0, has_run = false;
        }
        if (waiting[order[place]] == events) {
            ++place;
            continue;
        }
        for (lane = 0; lane < 32; ++lane) {
            now = &fibers[order[place] * 32 + lane];
            if (now->ended || (now->waits_for && *now->waits_for == now->seen)) continue;
            has_run = true;
            now->waits_for = nullptr;
            if (!_setjmp(scheduler)) {
                if (now->begun) _longjmp(now->resume, 1);
                now->begin();
            }
            if (now->ended) --left;
        }
        if (!has_run) waiting[order[place]] = events;
        place = has_run ? num_warps : place + 1;
    }
    now = nullptr;
    if (!post.empty()) fail("something was sent that nobody waited for");
}

// Run a kernel on `grid` CTAs in clusters of `ctas`; empty, or what went wrong.
inline std::string run_kernel(
    unsigned seed, int grid, int ctas, int threads, size_t shared_bytes,
    const std::function<void()>& kernel) {
    machine = Machine();
    machine.random.seed(seed);
    machine.threads = threads, machine.ctas = ctas, machine.shared_bytes = shared_bytes;
    machine.kernel = kernel;
    machine.all_ctas.resize(grid);
    machine.clusters.resize(grid / ctas);
    machine.fibers.resize(size_t(grid) * threads);
    for (int cta = 0; cta < grid; ++cta) {
        machine.all_ctas[cta].cluster = cta / ctas, machine.all_ctas[cta].rank = cta % ctas;
        for (int thread = 0; thread < threads; ++thread) {
            Fiber& fiber = machine.fibers[size_t(cta) * threads + thread];
            fiber.cta = &machine.all_ctas[cta], fiber.thread = thread;
        }
    }
    machine.run();
    return machine.fault;
}

inline int thread_index() { return machine.now->thread; }
inline int num_threads() { return machine.threads; }
inline int cta_index() { return int(machine.now->cta - machine.all_ctas.data()); }
inline int cluster_rank() { return machine.now->cta->rank; }
inline void barrier() { machine.meet(machine.now->cta->meeting, machine.threads); }
inline void warp_barrier() {
    machine.meet(machine.now->cta->warps[thread_index() / 32], 32);
}
inline void cluster_barrier() {
    machine.meet(
        machine.clusters[machine.now->cta->cluster], machine.ctas * machine.threads);
}

// The value of another lane of the warp
inline float exchanged(float value, int source) {
    Meeting& warp = machine.now->cta->warps[thread_index() / 32];
    // The next exchange uses the other row: some lanes may be there while others read this one.
    float* values = warp.values[warp.turn % 2];
    values[thread_index() % 32] = value;
    machine.meet(warp, 32);
    return values[source];
}
inline float from_left(float value) {
    const int lane = thread_index() % 32;
    return exchanged(value, lane % 16 > 0 ? lane - 1 : lane);
}
inline float from_right(float value) {
    const int lane = thread_index() % 32;
    return exchanged(value, lane % 16 < 15 ? lane + 1 : lane);
}
inline float from_lane(float value, int mask) {
    return exchanged(value, thread_index() % 32 ^ mask);
}
inline bool all(bool value) {
    const bool is_same = exchanged(value, 0) == float(value);
    if (!is_same) fail("lanes of a warp disagree");
    return value;
}

template <class T> constexpr size_t device_bytes() { return sizeof(T); }
template <> constexpr size_t device_bytes<Mailbox>() { return 8; }

struct SharedMemory {
    size_t next = 0, bytes = 0;
    template <class T> Span<T> take(int count) {
        std::vector<Array>& arrays = machine.now->cta->arrays;
        bytes += count * device_bytes<T>();
        if (bytes > machine.shared_bytes) fail("more shared memory than the launch has");
        if (next == arrays.size()) {
            arrays.push_back({std::make_unique<char[]>(count * sizeof(T)), count * sizeof(T)});
            memset(arrays[next].memory.get(), 0xff, arrays[next].bytes);
        }
        return {reinterpret_cast<T*>(arrays[next++].memory.get()), count, 0};
    }
};
inline SharedMemory shared_memory() { return {}; }

// The same place in the shared memory of another CTA of the cluster
template <class T> T* in_cta(Span<T> memory, int rank) {
    T* here = &memory[0];
    Cta& mine = *machine.now->cta;
    if (rank < 0 || rank >= machine.ctas) fail("no CTA has rank " + std::to_string(rank));
    Cta& other = *(&mine - mine.rank + rank);
    for (size_t i = 0; i < mine.arrays.size(); ++i) {
        const long offset = reinterpret_cast<char*>(here) - mine.arrays[i].memory.get();
        if (offset >= 0 && offset < long(mine.arrays[i].bytes)) {
            if (i >= other.arrays.size()) fail("the other CTA has not begun");
            return reinterpret_cast<T*>(other.arrays[i].memory.get() + offset);
        }
    }
    fail("not in shared memory");
}
template <class T> void put(Span<T> memory, T value, int rank) { *in_cta(memory, rank) = value; }
template <class T> void send(Span<T> memory, T value, Span<Mailbox> box, int rank) {
    Message message = {
        reinterpret_cast<char*>(in_cta(memory, rank)), {}, sizeof(T), in_cta(box, rank)};
    memcpy(message.value, &value, sizeof(T));
    machine.post.push_back(message);
}
inline void open_box(Span<Mailbox> box) { *box = Mailbox(); }
inline void expect(Span<Mailbox> box, int bytes) {
    if (--box->arrivals < 0) fail("a phase was begun before the one before it had ended");
    box->bytes += bytes;
    box->settle();
    ++machine.events;
}
inline void wait(Span<Mailbox> box, int parity) {
    // As on a GPU, where only the parity of a phase is known
    while (box->phase % 2 == parity) machine.wait(&box->phase, box->phase);
}

template <class T> T atomicAdd(T* number, T value) {
    const T before = *number;
    *number += value;
    return before;
}
