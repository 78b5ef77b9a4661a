"""Lines of moves by a short search: negamax with alpha-beta (Knuth and Moore 1975), by python-chess.

A position is worth its material and the moves that its side has; mate is worth more than all else.
"""

import re
from typing import Any

import chess

VALUES = {chess.PAWN: 100, chess.KNIGHT: 300, chess.BISHOP: 310, chess.ROOK: 500, chess.QUEEN: 900, chess.KING: 0}
MATE = 1_000_000
MOVES = 3


def before(item: Any) -> str | None:
    """The best line of a search three moves deep, or None for a problem without a position."""
    match = re.search(r"FEN: ([^\n]+?)\s*$", item.prompt, re.MULTILINE)
    return f"solution = [{', '.join(best_line(chess.Board(match[1]), MOVES))}]" if match else None


def best_line(board: chess.Board, depth: int) -> list[str]:
    """Three moves in SAN: the best by a search of this depth, then legal ones; with depth 0 the first legal ones."""
    words: list[str] = []
    board = board.copy(stack=False)
    _, moves = negamax(board, depth, -2 * MATE, 2 * MATE) if depth else (0, [])
    while len(words) < MOVES and not board.is_game_over():
        move = moves[len(words)] if len(words) < len(moves) else next(iter(board.legal_moves))
        words.append(board.san(move))
        board.push(move)
    return words


def negamax(board: chess.Board, depth: int, alpha: int, beta: int) -> tuple[int, list[chess.Move]]:
    """The value for the side to move, in hundredths of a pawn, and the line that leads to it."""
    if board.is_checkmate():
        return -MATE - depth, []
    if board.is_stalemate() or board.is_insufficient_material():
        return 0, []
    if not depth:
        return value(board), []
    best: tuple[int, list[chess.Move]] = (-3 * MATE, [])
    for move in sorted(board.legal_moves, key=lambda move: (not board.is_capture(move), move.uci())):
        board.push(move)
        reply, line = negamax(board, depth - 1, -beta, -alpha)
        board.pop()
        if -reply > best[0]:
            best = (-reply, [move, *line])
        alpha = max(alpha, -reply)
        if alpha >= beta:
            break
    return best


def value(board: chess.Board) -> int:
    """Material, pawns the further the better, and mobility, for the side to move."""
    total = board.legal_moves.count()
    for square, piece in board.piece_map().items():
        worth = VALUES[piece.piece_type]
        if piece.piece_type == chess.PAWN:
            rank = chess.square_rank(square)
            worth += 8 * (rank if piece.color else 7 - rank) ** 2
        total += worth if piece.color == board.turn else -worth
    return total
