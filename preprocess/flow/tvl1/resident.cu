// TV-L1 iterations of frame pairs that stay on the chip; reference.py states what is computed.
//
// A cluster of CTAs holds one pair for all warps of a pyramid level, then takes the next pair from
// a queue. The image is cut into blocks of 32 columns and ROWS rows; 16 lanes own a block, each
// lane two columns of it. The flow and its duals stay in registers, and what a warp makes constant
// in shared memory, where each thread reads its own. Threads pass on what their neighbours need
// through shared memory. An iteration has two steps, the primal one (reads duals to the left and
// above) and the dual one (reads the flow to the right and below), with a barrier behind each.
// Between CTAs there is no barrier: the border that another one waits for is computed first and
// sent, and comes while the rest is computed. It overwrites nothing that is still needed, for its
// sender has waited for what the receiver made of the last one.
//
// Columns are aligned to the right and rows to the bottom, so that no test is needed at those
// borders: a thread there is its own neighbour. What lies outside the image, left of it or in the
// first row of a block that has one row fewer, has a step of 0, so its duals stay 0, and so does
// its flow.
//
// Sums have a fixed order: rows of a lane, lanes of a warp, warps of the cluster. Compiled with
// ROWS, THREADS of a CTA, and PER_SM, how many CTAs a multiprocessor shall have registers for.
// Tests define EMULATED and give the functions of the first section for a CPU, with a check of each
// index.

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
__device__ void warp_barrier() { __syncwarp(); }

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
// Pixels around a packed image: as far as the taps of a warp and their neighbours may lie outside
constexpr int MARGIN = 4;
// Threads of a CTA, a place more before each row of blocks, and one at the end
constexpr int SIDE = THREADS + THREADS / LANES + 1;
constexpr int NEVER = 1 << 30;
// Of a gradient: its inverse, times any residual, is a float
constexpr float SMALLEST_SQUARE = 1e-30f;

struct Params {
    float limit, tau, step;  // step: tau / theta
    float tolerance;  // on the sum of squared changes; 0: the rule is off
    int iterations, warps;
};

// Of a thread, by row and column. The duals are held times theta, so that their divergence need not
// be multiplied by it.
struct Fields {
    float u[ROWS][2], v[ROWS][2];
    float pux[ROWS][2], puy[ROWS][2], pvx[ROWS][2], pvy[ROWS][2];
};

// Roles of a thread. Its first row, left or right column is part of the image;
constexpr int HAS_FIRST_ROW = 1, HAS_LEFT = 2, HAS_RIGHT = 4;
// its first or last row is for another block of this CTA,
constexpr int TO_ABOVE = 8, TO_BELOW = 16;
// or for the CTA above or below;
constexpr int IS_TOP = 32, IS_BOTTOM = 64;
// its border is that of the image, or where no thread is.
constexpr int AT_LEFT = 128, AT_RIGHT = 256, AT_BOTTOM = 512;

// Where a thread stands. It lies in shared memory and is read anew in each step, because the flow
// and its duals need all but thirty of the registers.
struct Place {
    short x, y;  // of its first row and left column
    int roles;
    int side;   // its place among all threads, with one more before each row of blocks
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
    Place at = {short(width - (across - column) * COLUMNS + 2 * lane), short(bottom - ROWS), 0,
                thread_index() + row_here + 1, 0};
    if (lane == 0 && column == 0) at.roles |= AT_LEFT;
    if (lane == LANES - 1 && (column == across - 1 || thread_index() == num_threads() - 1))
        at.roles |= AT_RIGHT;
    if (row_here >= down) {  // a block without a part of the image
        at.x = -COLUMNS;
        return at;
    }
    if (bottom - top == ROWS) at.roles |= HAS_FIRST_ROW;
    if (at.x >= 0) at.roles |= HAS_LEFT;
    if (at.x >= -1) at.roles |= HAS_RIGHT;
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

// Gives the weights of taps that lie outside 0 .. size - 1 to the one at the border, which they
// read; the first tap is at `start`.
__device__ void fold(float (&weights)[4], int start, int size) {
    if (start >= 0 && start + 3 < size) return;
#pragma unroll
    for (int tap = 0; tap < 3; ++tap)
        if (start + tap < 0) weights[tap + 1] += weights[tap], weights[tap] = 0.0f;
#pragma unroll
    for (int tap = 3; tap > 0; --tap)
        if (start + tap >= size) weights[tap - 1] += weights[tap], weights[tap] = 0.0f;
}

// What a warp by (u, v) makes constant at (x, y): rho at flow zero, the gradient gx and gy, and
// 1 / |gradient|^2. `packed` is the second image, `gray` the pixel of the first.
__device__ float4 linearized(
    Span<const float> packed, float gray, float u, float v, int x, int y, int height, int width) {
    // The flow is cut where all taps read the border, and split before the pixel's position is
    // added: that would cost bits.
    const float cut_u = clamp(u, -2.0f - x, float(width - x));
    const float cut_v = clamp(v, -2.0f - y, float(height - y));
    const float whole_u = floorf(cut_u), whole_v = floorf(cut_v);
    const int left = x + int(whole_u) - 1, top = y + int(whole_v) - 1;
    float across[4], down[4];
    keys_weights(cut_u - whole_u, across);
    keys_weights(cut_v - whole_v, down);
    fold(across, left, width);
    fold(down, top, height);
    const int pitch = width + 2 * MARGIN;
    auto row = packed + ((top - 1 + MARGIN) * pitch + left - 1 + MARGIN);
    // Of the taps and their neighbours, row by row: the sum along the row, and that of differences
    float values[6], differences[6];
#pragma unroll
    for (int r = 0; r < 6; ++r, row = row + pitch) {
        values[r] = differences[r] = 0.0f;
#pragma unroll
        for (int c = 0; c < 4; ++c) {
            values[r] += across[c] * row[c + 1];
            if (r > 0 && r < 5) differences[r] += across[c] * (row[c + 2] - row[c]);
        }
    }
    float warped = 0.0f, gx = 0.0f, gy = 0.0f;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
        warped += down[r] * values[r + 1];
        gx += 0.5f * down[r] * differences[r + 1];
        gy += 0.5f * down[r] * (values[r + 2] - values[r]);
    }
    // Where the definition does not divide, the result is cut at the same limit, or times zero.
    const float inverse = 1.0f / fmaxf(gx * gx + gy * gy, SMALLEST_SQUARE);
    return {warped - gx * u - gy * v - gray, gx, gy, inverse};
}

// A pixel of the two blocks of a warp, for what is done one pixel after another in shared memory.
// There the lanes take the 32 columns of a row, so that they read images in as few pieces as can
// be, and work for one another: `index` is the slot of the pixel's owner.
struct Pixel {
    int x, y, index;
    bool is_there;
};

__device__ Pixel pixel(Span<const Place> places, int slot) {
    const int lane = thread_index() % 32, row = slot / 2;
    const int block = thread_index() - lane + slot % 2 * LANES;
    const Place& at = places[block];
    return {at.x + lane, at.y + row, (2 * row + lane % 2) * THREADS + block + lane / 2,
            at.x + lane >= 0 && (row > 0 || at.is(HAS_FIRST_ROW))};
}

// Between the flow of a pair, (2, H, W), and where threads park it while they have no registers for
// it
__device__ void load(
    Span<float2> parked, Span<const Place> places, Span<const float> flow, int height, int width) {
#pragma unroll 1
    for (int slot = 0; slot < 2 * ROWS; ++slot) {
        const Pixel here = pixel(places, slot);
        const int place = here.y * width + here.x;
        float2 value = {0.0f, 0.0f};
        if (here.is_there) value = {flow[place], flow[height * width + place]};
        parked[here.index] = value;
    }
}

__device__ void store(
    Span<const float2> parked, const Place& at, Span<float> flow, int height, int width) {
#pragma unroll 1
    for (int slot = 0; slot < 2 * ROWS; ++slot) {
        if (at.has(slot % 2, slot / 2)) {
            const int place = (at.y + slot / 2) * width + at.x + slot % 2;
            flow[place] = parked[slot * THREADS].x;
            flow[height * width + place] = parked[slot * THREADS].y;
        }
    }
}

// Fill the constants, from the flow in `parked`.
__device__ void warp(
    Span<const float2> parked, Span<float4> constants, Span<const Place> places,
    Span<const float> gray, Span<const float> packed, int height, int width) {
#pragma unroll 1
    for (int slot = 0; slot < 2 * ROWS; ++slot) {
        const Pixel here = pixel(places, slot);
        const float2 flow = parked[here.index];
        float4 result = {0.0f, 0.0f, 0.0f, 0.0f};
        if (here.is_there)
            result = linearized(
                packed, gray[here.y * width + here.x], flow.x, flow.y, here.x, here.y, height,
                width);
        constants[here.index] = result;
    }
}

// New flow of row r, from the duals around it; adds the squared change to `moved`.
__device__ void primal_step(
    Fields& fields, int r, float4 above, const Place& at, Span<const float2> left,
    Span<float2> right, Span<const float4> constants, float limit, float& moved) {
    const float2 before = left[r * SIDE - 1];
#pragma unroll
    for (int c = 0; c < 2; ++c) {
        const float4 k = constants[(2 * r + c) * THREADS];
        const float u = fields.u[r][c], v = fields.v[r][c];
        const float fi = clamp((k.y * u + (k.z * v + k.x)) * k.w, -limit, limit);
        const float left_pux = c == 0 ? before.x : fields.pux[r][0];
        const float left_pvx = c == 0 ? before.y : fields.pvx[r][0];
        float div_u = fields.pux[r][c] - left_pux
            + (fields.puy[r][c] - (c == 0 ? above.x : above.z));
        float div_v = fields.pvx[r][c] - left_pvx
            + (fields.pvy[r][c] - (c == 0 ? above.y : above.w));
        // Outside the image all duals are 0, but for those above a first row.
        if (r == 0 && !at.is(HAS_FIRST_ROW)) div_u = div_v = 0.0f;
        const float by_u = div_u - fi * k.y, by_v = div_v - fi * k.z;
        fields.u[r][c] += by_u;
        fields.v[r][c] += by_v;
        moved += by_u * by_u;
        moved += by_v * by_v;
    }
    right[r * SIDE] = {fields.u[r][0], fields.v[r][0]};
    if (at.is(AT_RIGHT)) right[r * SIDE + 1] = {fields.u[r][1], fields.v[r][1]};
}

// New duals of row r, from the flow around it.
__device__ void dual_step(
    Fields& fields, int r, float4 below, const Place& at, Span<float2> left,
    Span<const float2> right, float tau, float step) {
    const float2 behind = right[r * SIDE + 1];
#pragma unroll
    for (int c = 0; c < 2; ++c) {
        const float u = fields.u[r][c], v = fields.v[r][c];
        const float own_tau = at.has(c, r) ? tau : 0.0f, own_step = at.has(c, r) ? step : 0.0f;
        const float ux = (c == 0 ? fields.u[r][1] : behind.x) - u;
        const float vx = (c == 0 ? fields.v[r][1] : behind.y) - v;
        const float uy = (c == 0 ? below.x : below.z) - u;
        const float vy = (c == 0 ? below.y : below.w) - v;
        const float norm_u = 1.0f + own_step * sqrtf(ux * ux + uy * uy);
        const float norm_v = 1.0f + own_step * sqrtf(vx * vx + vy * vy);
        // One division serves both duals.
        const float shared = 1.0f / (norm_u * norm_v);
        const float by_u = shared * norm_v, by_v = shared * norm_u;
        fields.pux[r][c] = (fields.pux[r][c] + own_tau * ux) * by_u;
        fields.puy[r][c] = (fields.puy[r][c] + own_tau * uy) * by_u;
        fields.pvx[r][c] = (fields.pvx[r][c] + own_tau * vx) * by_v;
        fields.pvy[r][c] = (fields.pvy[r][c] + own_tau * vy) * by_v;
    }
    left[r * SIDE] = {fields.pux[r][1], fields.pvx[r][1]};
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

extern "C" __global__ void __launch_bounds__(THREADS, PER_SM) resident_level(
    const float* images_, const float* packed_, const int* first_, float* flow_, int* queue_,
    unsigned long long* updates_, int num_frames, int num_pairs, int height, int width, int across,
    int down, int ctas, Params params) {
    const int size = height * width, packed_size = (height + 2 * MARGIN) * (width + 2 * MARGIN);
    const auto images = span(images_, (long long)num_frames * size);
    const auto packed = span(packed_, (long long)num_frames * packed_size);
    const auto first = span(first_, num_pairs);
    const auto flow = span(flow_, 2LL * num_pairs * size);
    const auto queue = span(queue_, 1);
    const auto updates = span(updates_, 1);

    const int thread = thread_index(), num_warps = num_threads() / 32;
    SharedMemory memory = shared_memory();
    // A thread's own, one after the other at a distance of THREADS
    const auto all_constants = memory.take<float4>(2 * ROWS * THREADS);
    const auto constants = all_constants + thread;
    const auto rows_above = memory.take<float4>(THREADS), above = rows_above + thread;
    const auto rows_below = memory.take<float4>(THREADS), below = rows_below + thread;
    const auto places = memory.take<Place>(THREADS), where = places + thread;
    // Between warps of the image the flow of all threads. During iterations, for each row of a
    // thread the duals that its right neighbour reads, and the flow that its left neighbour reads.
    const auto all_parked = memory.take<float2>(2 * ROWS * SIDE), parked = all_parked + thread;
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
    if (thread == 0)
        for (int box = 0; box < 4; ++box) open_box(boxes + box);
    int done = 0, looks = 0;
#pragma unroll 1
    while (true) {
        // Not before all CTAs are ready may one write to another, at the beginning and from pair to
        // pair.
        cluster_barrier();
        if (cluster_rank() == 0 && thread_index() == 0) {
            const int pair = atomicAdd(&queue[0], 1);
            for (int other = 0; other < ctas; ++other) put(next, pair, other);
        }
        cluster_barrier();
        if (all(*next >= num_pairs)) break;
        load(all_parked, places, span(flow + 2LL * *next * size, 2 * size), height, width);
        Fields fields;
#pragma unroll
        for (int r = 0; r < ROWS; ++r)
#pragma unroll
            for (int c = 0; c < 2; ++c)
                fields.pux[r][c] = fields.puy[r][c] = fields.pvx[r][c] = fields.pvy[r][c] = 0.0f;
        *above = {0.0f, 0.0f, 0.0f, 0.0f};

#pragma unroll 1
        for (where->warps = params.warps; where->warps > 0; --where->warps) {
            const long long frame = first[*next];
            // What threads have parked is read by others of their warp.
            warp_barrier();
            warp(all_parked, all_constants, places, span(images + frame * size, size),
                 span(packed + (frame + 1) * packed_size, packed_size), height, width);
#pragma unroll
            for (int r = 0; r < ROWS; ++r)
#pragma unroll
                for (int c = 0; c < 2; ++c) {
                    const float2 value = parked[(2 * r + c) * THREADS];
                    fields.u[r][c] = value.x, fields.v[r][c] = value.y;
                }
            // The constants are there, and what was parked may be overwritten.
            barrier();
            const auto left = all_parked + where->side, right = left + ROWS * SIDE;
#pragma unroll
            for (int r = 0; r < ROWS; ++r) {
                left[r * SIDE] = {fields.pux[r][1], fields.pvx[r][1]};
                if (where->is(AT_LEFT)) left[r * SIDE - 1] = {0.0f, 0.0f};
            }
            barrier();
            int look = params.tolerance > 0.0f ? 2 : NEVER;
#pragma unroll 1
            for (int iteration = 1; iteration <= params.iterations; ++iteration) {
                if (thread_index() == 0 && cluster_rank() < ctas - 1) expect(from_below, row_bytes);
                Place at = *where;
                float moved = 0.0f;
#pragma unroll
                for (int r = 0; r < ROWS; ++r) {
                    // A first row that is not part of the image has no duals: the border is above
                    // the second.
                    const bool is_upmost = r == 0 || (r == 1 && !at.is(HAS_FIRST_ROW));
                    const float4 upper = is_upmost ? *above : dual_row(fields, r - 1);
                    primal_step(
                        fields, r, upper, at, left, right, constants, params.limit, moved);
                    if (r == (ROWS > 1 ? 1 : 0)) {
                        const float4 row =
                            at.is(HAS_FIRST_ROW) ? flow_row(fields, 0) : flow_row(fields, r);
                        if (at.is(TO_ABOVE)) rows_below[thread_index() - stride] = row;
                        if (at.is(IS_TOP))
                            send(rows_below + thread_index() + whole, row, from_below,
                                 cluster_rank() - 1);
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

                if (thread_index() == 0 && cluster_rank() > 0) expect(from_above, row_bytes);
                at = *where;
                if (at.is(IS_BOTTOM)) wait(from_below, done % 2);
                dual_step(fields, ROWS - 1, *below, at, left, right, params.tau, params.step);
                const float4 row = dual_row(fields, ROWS - 1);
                if (at.is(TO_BELOW)) rows_above[thread_index() + stride] = row;
                if (at.is(IS_BOTTOM))
                    send(rows_above + thread_index() - whole, row, from_above, cluster_rank() + 1);
#pragma unroll
                for (int r = 0; r < ROWS - 1; ++r)
                    dual_step(fields, r, flow_row(fields, r + 1), at, left, right, params.tau,
                              params.step);
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
    if (cluster_rank() == 0 && thread_index() == 0)
        atomicAdd(&updates[0], (unsigned long long)done * size);
}

// (T, H, W) -> (T, H + 2 MARGIN, W + 2 MARGIN): borders are repeated, so that the taps of a warp
// need no test where they lie.
extern "C" __global__ void pack(
    const float* images_, float* packed_, int num_frames, int height, int width) {
    const int pitch = width + 2 * MARGIN, packed_size = (height + 2 * MARGIN) * pitch;
    const auto images = span(images_, (long long)num_frames * height * width);
    const auto packed = span(packed_, (long long)num_frames * packed_size);
    const long long pixel = (long long)cta_index() * num_threads() + thread_index();
    if (pixel >= (long long)num_frames * packed_size) return;
    const int within = pixel % packed_size;
    const int y = min(max(within / pitch - MARGIN, 0), height - 1);
    const int x = min(max(within % pitch - MARGIN, 0), width - 1);
    packed[pixel] = images[(pixel / packed_size * height + y) * width + x];
}
