DROP TABLE zdm.row_meetings;
