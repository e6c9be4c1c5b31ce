// Loops run their bodies, which are the words after their own; the segments of slices move on with the rounds.

// [rounds, words before the body, words of the body, states, (held, next, bytes) ..., slices, (segment, first place, bytes a
// round) ...]
static int64_t run_scan(operands given) {
    const int64_t rounds = NUMBER(0), states = NUMBER(3);
    const int64_t *state = given.word + 4, *slice = state + 3 * states + 1, slices = slice[-1];
    const int64_t *body = given.word + NUMBER(1), *end = body + NUMBER(2);
    for (int64_t i = 0; i < slices; i++) given.segments[slice[3 * i]] = place_of(slice[3 * i + 1], given.segments);
    for (int64_t round = 0; round < rounds; round++) {
        int64_t failed = run(body, end, given.segments);
        if (failed) return failed;
        for (int64_t i = 0; i < states; i++)
            memcpy(place_of(state[3 * i], given.segments), place_of(state[3 * i + 1], given.segments), (size_t)state[3 * i + 2]);
        for (int64_t i = 0; i < slices; i++) given.segments[slice[3 * i]] += slice[3 * i + 2];
    }
    return 0;
}

// [place of the greatest number of rounds or none, place of the first condition or none, place of the next condition,
//  place of the round's number, words before the body, words of the body, states, (held, next, bytes) ..., ...]
static int64_t run_loop(operands given) {
    const int64_t *most = PLACE(const int64_t, 0), *body = given.word + NUMBER(4), *end = body + NUMBER(5), states = NUMBER(6);
    const int64_t *state = given.word + 7;
    const uint8_t *first = PLACE(const uint8_t, 1), *next = PLACE(const uint8_t, 2);
    int64_t *number = PLACE(int64_t, 3), rounds = most ? *most : INT64_MAX, going = first ? *first : 1;
    for (int64_t round = 0; round < rounds && going; round++) {
        *number = round;
        int64_t failed = run(body, end, given.segments);
        if (failed) return failed;
        going = *next;
        for (int64_t i = 0; i < states; i++)
            memcpy(place_of(state[3 * i], given.segments), place_of(state[3 * i + 1], given.segments), (size_t)state[3 * i + 2]);
    }
    return 0;
}
