#USER#

make_user
