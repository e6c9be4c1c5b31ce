// Copies of what has strides, and elements chosen by their numbers.

// [to, from, bytes an element, axes, sizes ..., strides of to ..., strides of from ...]; strides in elements.
static int64_t run_copy(operands given) {
    char *to = PLACE(char, 0);
    const char *from = PLACE(char, 1);
    const int64_t bytes = NUMBER(2), axes = NUMBER(3), outer = axes ? axes - 1 : 0;
    const int64_t *sizes = given.word + 4, *strides = sizes + axes;
    const int64_t length = axes ? sizes[axes - 1] : 1;
    const int64_t step = axes ? strides[axes - 1] : 1, stride = axes ? strides[2 * axes - 1] : 1;
    odometer at = odometer_over(outer, sizes);
    int64_t offsets[2] = {0, 0};
    do {
        char *y = to + offsets[0] * bytes;
        const char *x = from + offsets[1] * bytes;
        if (step == 1 && stride == 1) {
            memcpy(y, x, (size_t)(length * bytes));
        } else {
#define MOVE(type)                                                                                                \
    for (int64_t i = 0; i < length; i++) ((type *)y)[i * step] = ((const type *)x)[i * stride];                   \
    break
            switch (bytes) {
                case 1: MOVE(uint8_t);
                case 2: MOVE(uint16_t);
                case 4: MOVE(uint32_t);
                default: MOVE(uint64_t);
            }
#undef MOVE
        }
    } while (turned(&at, offsets, strides, 2, axes));
    return 0;
}

static inline int64_t index_at(const void *indices, int64_t type, int64_t i) {
    return type == INT64 ? ((const int64_t *)indices)[i] : ((const int32_t *)indices)[i];
}

// [to, data, indices, type of indices, outer, size of the axis, bytes of a slice, indices' count]
static int64_t run_gather(operands given) {
    char *to = PLACE(char, 0);
    const char *data = PLACE(char, 1);
    const void *indices = PLACE(void, 2);
    const int64_t type = NUMBER(3), outer = NUMBER(4), size = NUMBER(5), bytes = NUMBER(6), count = NUMBER(7);
    if (bytes == 4 && type == INT64) {  // single elements: too short for calls that copy
        const uint32_t *from = (const uint32_t *)data;
        uint32_t *y = (uint32_t *)to;
        for (int64_t o = 0; o < outer; o++, from += size, y += count) {
            for (int64_t i = 0; i < count; i++) {
                const int64_t index = ((const int64_t *)indices)[i], chosen = index + (index < 0 ? size : 0);
                if (chosen < 0 || chosen >= size) return OUT_OF_RANGE;
                y[i] = from[chosen];
            }
        }
        return 0;
    }
    for (int64_t o = 0; o < outer; o++, data += size * bytes) {
        for (int64_t i = 0; i < count; i++, to += bytes) {
            int64_t index = index_at(indices, type, i);
            index += index < 0 ? size : 0;
            if (index < 0 || index >= size) return OUT_OF_RANGE;
            memcpy(to, data + index * bytes, (size_t)bytes);
        }
    }
    return 0;
}

// The outer axes of three operands, and an inner one along which the index is the same (its stride there is 0) or goes with the
// data.
#define ELEMENTS(action)                                                                                          \
    do {                                                                                                          \
        const int64_t *index = indices + offsets[1];                                                              \
        if (strides[2 * axes - 1] == 0) {                                                                         \
            int64_t chosen = *index + (*index < 0 ? size : 0);                                                    \
            if (chosen < 0 || chosen >= size) return OUT_OF_RANGE;                                                \
            for (int64_t i = 0; i < length; i++) action;                                                          \
        } else {                                                                                                  \
            for (int64_t i = 0; i < length; i++) {                                                                \
                int64_t chosen = index[i * strides[2 * axes - 1]];                                                \
                chosen += chosen < 0 ? size : 0;                                                                  \
                if (chosen < 0 || chosen >= size) return OUT_OF_RANGE;                                            \
                action;                                                                                           \
            }                                                                                                     \
        }                                                                                                         \
    } while (turned(&at, offsets, strides, 3, axes))

// [to, data, indices, bytes an element, size of the axis, stride of data along it, axes, sizes ..., strides of to ..., of
// indices ..., of data ...]; data's stride along the axis itself is 0 in its list.
static int64_t run_gather_elements(operands given) {
    const int64_t *indices = PLACE(int64_t, 2);
    const int64_t bytes = NUMBER(3), size = NUMBER(4), along = NUMBER(5), axes = NUMBER(6);
    const int64_t *sizes = given.word + 7, *strides = sizes + axes;
    const int64_t length = sizes[axes - 1], step = strides[axes - 1], stride = strides[3 * axes - 1];
    odometer at = odometer_over(axes - 1, sizes);
    int64_t offsets[3] = {0, 0, 0};
    if (bytes == 4) {
        uint32_t *to = PLACE(uint32_t, 0);
        const uint32_t *data = PLACE(const uint32_t, 1);
        ELEMENTS(to[offsets[0] + i * step] = data[offsets[2] + i * stride + chosen * along]);
    } else {
        char *to = PLACE(char, 0);
        const char *data = PLACE(const char, 1);
        ELEMENTS(memcpy(to + (offsets[0] + i * step) * bytes, data + (offsets[2] + i * stride + chosen * along) * bytes,
                        (size_t)bytes));
    }
    return 0;
}

// [to, updates, indices, bytes an element, size of the axis, stride of to along it, axes, sizes ..., strides of updates ..., of
// indices ..., of to ...]: `to` already holds the data.
static int64_t run_scatter_elements(operands given) {
    char *to = PLACE(char, 0);
    const char *updates = PLACE(const char, 1);
    const int64_t *indices = PLACE(int64_t, 2);
    const int64_t bytes = NUMBER(3), size = NUMBER(4), along = NUMBER(5), axes = NUMBER(6);
    const int64_t *sizes = given.word + 7, *strides = sizes + axes;
    const int64_t length = sizes[axes - 1], step = strides[axes - 1], stride = strides[3 * axes - 1];
    odometer at = odometer_over(axes - 1, sizes);
    int64_t offsets[3] = {0, 0, 0};
    if (bytes == 4) {
        uint32_t *target = (uint32_t *)to;
        const uint32_t *source = (const uint32_t *)updates;
        ELEMENTS(target[offsets[2] + i * stride + chosen * along] = source[offsets[0] + i * step]);
    } else {
        ELEMENTS(memcpy(to + (offsets[2] + i * stride + chosen * along) * bytes, updates + (offsets[0] + i * step) * bytes,
                        (size_t)bytes));
    }
    return 0;
}
