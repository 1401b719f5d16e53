// TV-L1 iterations of frame pairs that stay on the chip; reference.py states what is computed.
//
// A cluster of CTAs holds one pair for all warps of a pyramid level, then takes the next pair from
// a queue. The image is cut into blocks of 32 columns and ROWS rows; 16 lanes own a block, each
// lane two columns of it. The flow and its duals stay in registers, and what a warp makes constant
// in shared memory, where each thread reads its own. Blocks exchange their borders through shared
// memory. An iteration has two steps, the primal one (reads duals to the left and above) and the
// dual one (reads the flow to the right and below), with a barrier behind each. Between CTAs there
// is no barrier: the border that another one waits for is computed first and sent, and comes while
// the rest is computed. It overwrites nothing that is still needed, for its sender has waited for
// what the receiver made of the last one.
//
// Columns are aligned to the right and rows to the bottom, so that no test is needed at those
// borders: a block there is its own neighbour. What lies outside the image, left of it or in the
// first row of a block that has one row fewer, has a step of 0, so its duals stay 0, and so does
// its flow.
//
// Sums have a fixed order: rows of a lane, lanes of a warp, warps of the cluster. Compiled with
// ROWS and THREADS (at most, in a CTA). Tests define EMULATED and give the functions of the first
// section for a CPU, with a check of each index.

#ifndef EMULATED
using Mailbox = unsigned long long;
template <class T> using Span = T*;

template <class T> __device__ T* span(T* first, long long) { return first; }

// Not kept in a register, nor what is made of it
__device__ int thread_index() {
    int index;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
    return index;
}
__device__ int num_threads() { return blockDim.x; }
__device__ int cta_index() { return blockIdx.x; }
__device__ void barrier() { __syncthreads(); }

// The value of the lane before or after, among the 16 of a block; its own where there is none.
__device__ float from_left(float value) { return __shfl_up_sync(~0u, value, 1, 16); }
__device__ float from_right(float value) { return __shfl_down_sync(~0u, value, 1, 16); }
// The value of the lane whose number differs in one bit.
__device__ float from_lane(float value, int mask) { return __shfl_xor_sync(~0u, value, mask); }
// Tells the compiler that all lanes of the warp agree.
__device__ bool all(bool value) { return __all_sync(~0u, value); }

struct SharedMemory {
    char* next;
    template <class T> __device__ T* take(int count) {
        T* first = reinterpret_cast<T*>(next);
        next += count * sizeof(T);
        return first;
    }
};

__device__ SharedMemory shared_memory() {
    extern __shared__ float4 memory[];
    return {reinterpret_cast<char*>(memory)};
}

#if __CUDA_ARCH__ >= 900
__device__ unsigned address(const void* shared) {
    return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}
__device__ int cluster_rank() {
    int rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
// Of all threads of the cluster; what they wrote before it is seen behind it.
__device__ void cluster_barrier() {
    asm volatile("barrier.cluster.arrive.release;\n\tbarrier.cluster.wait.acquire;" ::: "memory");
}
// A mailbox counts the bytes that other CTAs send here; its phases have parity 0, 1, 0, ...
__device__ void open_box(Mailbox* box) {
    asm volatile(
        "mbarrier.init.shared::cta.b64 [%0], 1;\n\tfence.mbarrier_init.release.cluster;" ::"r"(
            address(box))
        : "memory");
}
// By one thread, once a phase, before or after the first bytes of that phase are there.
__device__ void expect(Mailbox* box, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address(box)),
                 "r"(bytes)
                 : "memory");
}
// Until all bytes of the phase have come.
__device__ void wait(Mailbox* box, int parity) {
    asm volatile(
        "{\n\t.reg .pred done;\n"
        "again:\n\tmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n\t"
        "@!done bra again;\n\t}" ::"r"(address(box)),
        "r"(parity)
        : "memory");
}
// The same place in the CTA with this rank
__device__ unsigned address_in(const void* shared, int rank) {
    unsigned there;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address(shared)), "r"(rank));
    return there;
}
// Write to the same place in the CTA with this rank, and count the bytes in its box.
__device__ void send(float4* memory, float4 value, Mailbox* box, int rank) {
    asm volatile(
        "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];"
        ::"r"(address_in(memory, rank)), "f"(value.x), "f"(value.y), "f"(value.z), "f"(value.w),
        "r"(address_in(box, rank)) : "memory");
}
__device__ void send(float* memory, float value, Mailbox* box, int rank) {
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.f32 [%0], %1, [%2];"
                 ::"r"(address_in(memory, rank)), "f"(value), "r"(address_in(box, rank))
                 : "memory");
}
// The same without a box; a barrier of the cluster must follow.
__device__ void put(int* memory, int value, int rank) {
    asm volatile("st.shared::cluster.s32 [%0], %1;" ::"r"(address_in(memory, rank)), "r"(value)
                 : "memory");
}
#else
// Without clusters each CTA is one by itself, and nothing is sent.
__device__ int cluster_rank() { return 0; }
__device__ void cluster_barrier() { __syncthreads(); }
__device__ void open_box(Mailbox*) {}
__device__ void expect(Mailbox*, int) {}
__device__ void wait(Mailbox*, int) {}
template <class T> __device__ void send(T*, T, Mailbox*, int) {}
__device__ void put(int* memory, int value, int) { *memory = value; }
#endif
#endif

constexpr int LANES = 16;
constexpr int COLUMNS = 2 * LANES;
constexpr int NEVER = 1 << 30;
// Of a gradient: its inverse, times any residual, is a float
constexpr float SMALLEST_SQUARE = 1e-30f;

struct Params {
    float limit, theta, step;
    float tolerance;  // on the sum of squared changes; 0: the rule is off
    int iterations, warps;
};

// Of a thread, by row and column
struct Fields {
    float u[ROWS][2], v[ROWS][2];
    float pux[ROWS][2], puy[ROWS][2], pvx[ROWS][2], pvy[ROWS][2];
};

// Roles of a thread. It is the first or last lane of its block;
constexpr int IS_FIRST = 1, IS_LAST = 2;
// its first row, left or right column is part of the image;
constexpr int HAS_FIRST_ROW = 4, HAS_LEFT = 8, HAS_RIGHT = 16;
// its border is for another block of this CTA,
constexpr int TO_LEFT = 32, TO_RIGHT = 64, TO_ABOVE = 128, TO_BELOW = 256;
// for the CTA above or below,
constexpr int IS_TOP = 512, IS_BOTTOM = 1024;
// or for itself, at the border of the image.
constexpr int AT_RIGHT = 2048, AT_BOTTOM = 4096;

// Where a thread stands. It lies in shared memory and is read anew in each step, because the flow
// and its duals need all but thirty of the registers.
struct Place {
    int x, y;  // of its first row and left column
    int roles;
    int warps;  // still to do

    __device__ bool is(int role) const { return roles & role; }
    __device__ bool has(int column, int row) const {
        return is(column == 0 ? HAS_LEFT : HAS_RIGHT) && (row > 0 || is(HAS_FIRST_ROW));
    }
};

__device__ float clamp(float value, float low, float high) {
    return fminf(fmaxf(value, low), high);
}

__device__ Place place(int across, int down, int ctas, int height, int width) {
    const int lane = thread_index() % LANES, block = thread_index() / LANES;
    const int rank = cluster_rank(), column = block % across, row_here = block / across;
    const int row = rank * down + row_here, rows = ctas * down;
    const int top = row * height / rows, bottom = (row + 1) * height / rows;
    Place at = {width - (across - column) * COLUMNS + 2 * lane, bottom - ROWS, 0, 0};
    if (lane == 0) at.roles |= IS_FIRST;
    if (lane == LANES - 1) at.roles |= IS_LAST;
    if (row_here >= down) return at;  // a block without a part of the image
    if (bottom - top == ROWS) at.roles |= HAS_FIRST_ROW;
    if (at.x >= 0) at.roles |= HAS_LEFT;
    if (at.x >= -1) at.roles |= HAS_RIGHT;
    if (lane == 0 && column > 0) at.roles |= TO_LEFT;
    if (lane == LANES - 1) at.roles |= column < across - 1 ? TO_RIGHT : AT_RIGHT;
    if (row > 0) at.roles |= row_here > 0 ? TO_ABOVE : IS_TOP;
    if (row == rows - 1) at.roles |= AT_BOTTOM;
    else at.roles |= row_here < down - 1 ? TO_BELOW : IS_BOTTOM;
    return at;
}

// Keys' cubic, a = -0.5: weights of the taps at -1, 0, 1 and 2 for a position t in [0, 1)
__device__ void keys_weights(float t, float (&weights)[4]) {
    weights[0] = ((-0.5f * t + 1.0f) * t - 0.5f) * t;
    weights[1] = (1.5f * t - 2.5f) * t * t + 1.0f;
    weights[2] = ((-1.5f * t + 2.0f) * t + 0.5f) * t;
    weights[3] = (0.5f * t - 0.5f) * t * t;
}

// What a warp by (u, v) makes constant at (x, y): rho at flow zero, the gradient gx and gy, and
// 1 / |gradient|^2.
__device__ float4 linearized(
    Span<const float4> taps, float gray, float u, float v, int x, int y, int height, int width) {
    // The flow is cut where all taps read the border, and split before the pixel's position is
    // added: that would cost bits.
    const float cut_u = clamp(u, -2.0f - x, width + 1.0f - x);
    const float cut_v = clamp(v, -2.0f - y, height + 1.0f - y);
    const float whole_u = floorf(cut_u), whole_v = floorf(cut_v);
    const int left = x + int(whole_u) - 1, top = y + int(whole_v) - 1;
    float across[4], down[4];
    keys_weights(cut_u - whole_u, across);
    keys_weights(cut_v - whole_v, down);
    float warped = 0.0f, gx = 0.0f, gy = 0.0f;
    // One row after another: sixteen taps at once would need the registers of the duals.
#pragma unroll 1
    for (int row = 0; row < 4; ++row) {
        const int start = min(max(top + row, 0), height - 1) * width;
#pragma unroll
        for (int column = 0; column < 4; ++column) {
            const float4 tap = taps[start + min(max(left + column, 0), width - 1)];
            const float weight = down[0] * across[column];
            warped += weight * tap.x;
            gx += weight * tap.y;
            gy += weight * tap.z;
        }
        down[0] = down[1], down[1] = down[2], down[2] = down[3];
    }
    // Where the definition does not divide, the result is cut at the same limit, or times zero.
    const float inverse = 1.0f / fmaxf(gx * gx + gy * gy, SMALLEST_SQUARE);
    return {warped - gx * u - gy * v - gray, gx, gy, inverse};
}

// Between the flow of a pair, (2, H, W), and where a thread parks its own while it has no registers
// for it
__device__ void load(
    Span<float2> parked, const Place& at, Span<const float> flow, int height, int width) {
#pragma unroll 1
    for (int slot = 0; slot < 2 * ROWS; ++slot) {
        const int pixel = (at.y + slot / 2) * width + at.x + slot % 2;
        float2 value = {0.0f, 0.0f};
        if (at.has(slot % 2, slot / 2)) value = {flow[pixel], flow[height * width + pixel]};
        parked[slot * THREADS] = value;
    }
}

__device__ void store(
    Span<const float2> parked, const Place& at, Span<float> flow, int height, int width) {
#pragma unroll 1
    for (int slot = 0; slot < 2 * ROWS; ++slot)
        if (at.has(slot % 2, slot / 2)) {
            const int pixel = (at.y + slot / 2) * width + at.x + slot % 2;
            flow[pixel] = parked[slot * THREADS].x;
            flow[height * width + pixel] = parked[slot * THREADS].y;
        }
}

// Fill `constants` of this thread, from the flow in `parked`.
__device__ void warp(
    Span<const float2> parked, Span<float4> constants, const Place& at, Span<const float4> taps,
    Span<const float> gray, int height, int width) {
#pragma unroll 1
    for (int slot = 0; slot < 2 * ROWS; ++slot) {
        const int x = at.x + slot % 2, y = at.y + slot / 2;
        const float2 flow = parked[slot * THREADS];
        float4 result = {0.0f, 0.0f, 0.0f, 0.0f};
        if (at.has(slot % 2, slot / 2))
            result = linearized(
                taps, gray[y * width + x], flow.x, flow.y, x, y, height, width);
        constants[slot * THREADS] = result;
    }
}

// New flow of row r, from the duals around it; adds the squared change to `moved`.
__device__ void primal_step(
    Fields& fields, int r, float4 above, const Place& at, Span<float2> left,
    Span<float2> right, Span<const float4> constants, float limit, float theta, float& moved) {
    // Outside the image all duals are 0, but for those above a first row.
    const float here = r > 0 || at.is(HAS_FIRST_ROW) ? theta : 0.0f;
    float2 before = {from_left(fields.pux[r][1]), from_left(fields.pvx[r][1])};
    if (at.is(IS_FIRST)) before = left[r];
#pragma unroll
    for (int c = 0; c < 2; ++c) {
        const float4 k = constants[(2 * r + c) * THREADS];
        const float u = fields.u[r][c], v = fields.v[r][c];
        const float fi = clamp((k.x + (k.y * u + k.z * v)) * k.w, -limit, limit);
        const float left_pux = c == 0 ? before.x : fields.pux[r][0];
        const float left_pvx = c == 0 ? before.y : fields.pvx[r][0];
        const float div_u = fields.pux[r][c] - left_pux
            + (fields.puy[r][c] - (c == 0 ? above.x : above.z));
        const float div_v = fields.pvx[r][c] - left_pvx
            + (fields.pvy[r][c] - (c == 0 ? above.y : above.w));
        const float by_u = here * div_u - fi * k.y, by_v = here * div_v - fi * k.z;
        fields.u[r][c] += by_u;
        fields.v[r][c] += by_v;
        moved += by_u * by_u;
        moved += by_v * by_v;
    }
    if (at.is(TO_LEFT)) right[r - ROWS] = {fields.u[r][0], fields.v[r][0]};
    if (at.is(AT_RIGHT)) right[r] = {fields.u[r][1], fields.v[r][1]};
}

// New duals of row r, from the flow around it.
__device__ void dual_step(
    Fields& fields, int r, float4 below, const Place& at, Span<float2> left,
    Span<float2> right, float step) {
    float2 behind = {from_right(fields.u[r][0]), from_right(fields.v[r][0])};
    if (at.is(IS_LAST)) behind = right[r];
#pragma unroll
    for (int c = 0; c < 2; ++c) {
        const float u = fields.u[r][c], v = fields.v[r][c];
        const float here = at.has(c, r) ? step : 0.0f;
        const float ux = (c == 0 ? fields.u[r][1] : behind.x) - u;
        const float vx = (c == 0 ? fields.v[r][1] : behind.y) - v;
        const float uy = (c == 0 ? below.x : below.z) - u;
        const float vy = (c == 0 ? below.y : below.w) - v;
        const float norm_u = 1.0f + here * sqrtf(ux * ux + uy * uy);
        const float norm_v = 1.0f + here * sqrtf(vx * vx + vy * vy);
        // One division serves both duals.
        const float shared = 1.0f / (norm_u * norm_v);
        const float by_u = shared * norm_v, by_v = shared * norm_u;
        fields.pux[r][c] = (fields.pux[r][c] + here * ux) * by_u;
        fields.puy[r][c] = (fields.puy[r][c] + here * uy) * by_u;
        fields.pvx[r][c] = (fields.pvx[r][c] + here * vx) * by_v;
        fields.pvy[r][c] = (fields.pvy[r][c] + here * vy) * by_v;
    }
    if (at.is(TO_RIGHT)) left[r + ROWS] = {fields.pux[r][1], fields.pvx[r][1]};
}

__device__ float4 flow_row(const Fields& fields, int r) {
    return {fields.u[r][0], fields.v[r][0], fields.u[r][1], fields.v[r][1]};
}

__device__ float4 dual_row(const Fields& fields, int r) {
    return {fields.puy[r][0], fields.pvy[r][0], fields.puy[r][1], fields.pvy[r][1]};
}

__device__ float warp_sum(float value) {
    // Both lanes of an exchange add the same two numbers, so all lanes end with the same bits.
    for (int mask = 16; mask > 0; mask /= 2) value += from_lane(value, mask);
    return value;
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) resident_level(
    const float* images_, const float4* taps_, const int* first_, float* flow_, int* queue_,
    unsigned long long* updates_, int num_frames, int num_pairs, int height, int width, int across,
    int down, int ctas, Params params) {
    const int size = height * width;
    const auto images = span(images_, (long long)num_frames * size);
    const auto taps = span(taps_, (long long)num_frames * size);
    const auto first = span(first_, num_pairs);
    const auto flow = span(flow_, 2LL * num_pairs * size);
    const auto queue = span(queue_, 1);
    const auto updates = span(updates_, 1);

    const int thread = thread_index(), num_warps = num_threads() / 32, rank = cluster_rank();
    SharedMemory memory = shared_memory();
    // A thread's own, one after the other at a distance of THREADS
    const auto constants = memory.take<float4>(2 * ROWS * THREADS) + thread;
    const auto rows_above = memory.take<float4>(THREADS), above = rows_above + thread;
    const auto rows_below = memory.take<float4>(THREADS), below = rows_below + thread;
    const auto where = memory.take<Place>(THREADS) + thread;
    const auto parked = memory.take<float2>(2 * ROWS * THREADS) + thread;
    const auto left = memory.take<float2>(THREADS / LANES * ROWS) + thread / LANES * ROWS;
    const auto right = memory.take<float2>(THREADS / LANES * ROWS) + thread / LANES * ROWS;
    const auto boxes = memory.take<Mailbox>(4);
    const auto from_above = boxes, from_below = boxes + 1;
    const auto sums = memory.take<float>(2 * ctas * num_warps);
    const auto next = memory.take<int>(1);
    // From a block to the one below it, and from the first to the last one of a column
    const int stride = across * LANES, whole = stride * (down - 1);
    const int row_bytes = stride * int(sizeof(float4));

    *where = place(across, down, ctas, height, width);
    // Blocks without a part of the image read their borders too.
    *below = {0.0f, 0.0f, 0.0f, 0.0f};
    if (where->is(IS_FIRST))
        for (int r = 0; r < ROWS; ++r) right[r] = {0.0f, 0.0f};
    if (thread == 0)
        for (int box = 0; box < 4; ++box) open_box(boxes + box);
    int done = 0, looks = 0;
#pragma unroll 1
    while (true) {
        // Not before all CTAs are ready may one write to another, at the beginning and from pair to
        // pair.
        cluster_barrier();
        if (rank == 0 && thread_index() == 0) {
            const int pair = atomicAdd(&queue[0], 1);
            for (int other = 0; other < ctas; ++other) put(next, pair, other);
        }
        cluster_barrier();
        if (all(*next >= num_pairs)) break;
        load(parked, *where, span(flow + 2LL * *next * size, 2 * size), height, width);
        Fields fields;
#pragma unroll
        for (int r = 0; r < ROWS; ++r)
#pragma unroll
            for (int c = 0; c < 2; ++c)
                fields.pux[r][c] = fields.puy[r][c] = fields.pvx[r][c] = fields.pvy[r][c] = 0.0f;
        if (where->is(IS_FIRST))
            for (int r = 0; r < ROWS; ++r) left[r] = {0.0f, 0.0f};
        *above = {0.0f, 0.0f, 0.0f, 0.0f};

#pragma unroll 1
        for (where->warps = params.warps; where->warps > 0; --where->warps) {
            const long long frame = (long long)first[*next] * size;
            warp(parked, constants, *where, span(taps + frame + size, size),
                 span(images + frame, size), height, width);
#pragma unroll
            for (int r = 0; r < ROWS; ++r)
#pragma unroll
                for (int c = 0; c < 2; ++c) {
                    const float2 value = parked[(2 * r + c) * THREADS];
                    fields.u[r][c] = value.x, fields.v[r][c] = value.y;
                }
            int look = params.tolerance > 0.0f ? 2 : NEVER;
#pragma unroll 1
            for (int iteration = 1; iteration <= params.iterations; ++iteration) {
                if (thread_index() == 0 && rank < ctas - 1) expect(from_below, row_bytes);
                Place at = *where;
                float moved = 0.0f;
#pragma unroll
                for (int r = 0; r < ROWS; ++r) {
                    // A first row that is not part of the image has no duals: the border is above
                    // the second.
                    const bool is_upmost = r == 0 || (r == 1 && !at.is(HAS_FIRST_ROW));
                    const float4 upper = is_upmost ? *above : dual_row(fields, r - 1);
                    primal_step(fields, r, upper, at, left, right, constants, params.limit,
                                params.theta, moved);
                    if (r == (ROWS > 1 ? 1 : 0)) {
                        const float4 row =
                            at.is(HAS_FIRST_ROW) ? flow_row(fields, 0) : flow_row(fields, r);
                        if (at.is(TO_ABOVE)) rows_below[thread_index() - stride] = row;
                        if (at.is(IS_TOP))
                            send(rows_below + thread_index() + whole, row, from_below, rank - 1);
                    }
                }
                if (at.is(AT_BOTTOM)) *below = flow_row(fields, ROWS - 1);
                // Two buffers of sums: a CTA may be at the next look while another reads these.
                const int buffer = looks % 2 * ctas * num_warps;
                const auto box = boxes + 2 + looks % 2;
                if (all(iteration == look)) {
                    const int thread = thread_index(), lane = thread % 32, rank = cluster_rank();
                    const int index = buffer + rank * num_warps + thread / 32;
                    const float sum = warp_sum(moved);
                    if (lane == rank) sums[index] = sum;
                    else if (lane < ctas) send(sums + index, sum, box, lane);
                    if (thread == 0 && ctas > 1)
                        expect(box, (ctas - 1) * num_warps * int(sizeof(float)));
                }
                barrier();

                if (thread_index() == 0 && rank > 0) expect(from_above, row_bytes);
                at = *where;
                if (at.is(IS_BOTTOM)) wait(from_below, done % 2);
                dual_step(fields, ROWS - 1, *below, at, left, right, params.step);
                const float4 row = dual_row(fields, ROWS - 1);
                if (at.is(TO_BELOW)) rows_above[thread_index() + stride] = row;
                if (at.is(IS_BOTTOM))
                    send(rows_above + thread_index() - whole, row, from_above, rank + 1);
#pragma unroll
                for (int r = 0; r < ROWS - 1; ++r)
                    dual_step(fields, r, flow_row(fields, r + 1), at, left, right, params.step);
                barrier();
                if (at.is(IS_TOP)) wait(from_above, done % 2);
                ++done;
                if (all(iteration == look)) {
                    if (ctas > 1) wait(box, looks / 2 % 2);
                    ++looks;
                    float change = 0.0f;
                    for (int i = thread_index() % 32; i < ctas * num_warps; i += 32)
                        change += sums[buffer + i];
                    change = warp_sum(change);
                    if (all(change <= params.tolerance)) break;
                    // The next iteration at which the change, falling by the tolerance each time,
                    // could have come below it; bounded, to fit 32 bits.
                    look += 2 * int(fminf(change / (2.0f * params.tolerance), 1e6f)) + 2;
                }
            }
#pragma unroll
            for (int r = 0; r < ROWS; ++r)
#pragma unroll
                for (int c = 0; c < 2; ++c)
                    parked[(2 * r + c) * THREADS] = {fields.u[r][c], fields.v[r][c]};
        }

        store(parked, *where, span(flow + 2LL * *next * size, 2 * size), height, width);
    }
    if (rank == 0 && thread_index() == 0) atomicAdd(&updates[0], (unsigned long long)done * size);
}

// (T, H, W) -> (T, H, W, 4): gray, half the difference of its two neighbours in x and in y, and 0;
// borders are repeated. So one read serves a tap of the warp.
extern "C" __global__ void pack(
    const float* images_, float4* taps_, int num_frames, int height, int width) {
    const long long size = (long long)height * width, num = num_frames * size;
    const auto images = span(images_, num);
    const auto taps = span(taps_, num);
    const long long pixel = (long long)cta_index() * num_threads() + thread_index();
    if (pixel >= num) return;
    const int y = pixel % size / width, x = pixel % width;
    const float left = images[pixel - (x > 0)], right = images[pixel + (x < width - 1)];
    const float upper = images[pixel - (y > 0 ? width : 0)];
    const float lower = images[pixel + (y < height - 1 ? width : 0)];
    taps[pixel] = {images[pixel], (right - left) * 0.5f, (lower - upper) * 0.5f, 0.0f};
}
